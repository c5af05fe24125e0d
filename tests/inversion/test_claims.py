"""Several processes that fill one store at once."""

import importlib.util
import logging
import signal
import threading
import time
from pathlib import Path

import pytest

from asyrp_lit.inversion import claims
from asyrp_lit.inversion.claims import Claims
from asyrp_lit.inversion.fill import fill_store

spec = importlib.util.spec_from_file_location("filler", Path(__file__).with_name("test_invert.py"))
filler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filler)
Squares, make_model, make_store, read_files, start = (
    getattr(filler, name) for name in ("Squares", "make_model", "make_store", "read_files", "start")
)
COUNT = 40  # images of the script, in 10 shards


@pytest.fixture
def whole(tmp_path):
    """The files of a store that one process has filled."""
    model, source = make_model(), Squares(COUNT)
    store = make_store(tmp_path / "whole", model, source)
    fill_store(model, source, store, batch_size=3, progress=False)
    return read_files(store)


def fill(store, **options):
    return fill_store(make_model(), Squares(COUNT), store, 3, progress=False, **options)


def test_three_processes_fill_a_store_together_and_one_of_them_may_die(tmp_path, whole):
    shared = make_store(tmp_path / "shared", make_model(), Squares(COUNT))
    dead, *others = (start(tmp_path / "shared") for _ in range(3))
    while dead.poll() is None and shared.shard_path(0).exists() + shared.shard_path(1).exists() < 1:
        time.sleep(0.01)
    dead.send_signal(signal.SIGKILL)
    assert [process.wait() for process in others] == [0, 0]
    assert read_files(shared) == whole


def test_shards_that_another_process_holds_are_left_to_it(tmp_path):
    store = make_store(tmp_path, make_model(), Squares(COUNT))
    with store.lock_shard(2), store.lock_shard(7):
        assert fill(store, wait=False) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert store.missing_shards() == [2, 7]
    assert fill(store, wait=False, num_workers=2) == [2, 7]


def test_the_shard_of_a_process_that_died_is_computed_by_who_waits_for_it(tmp_path, whole, caplog):
    store = make_store(tmp_path, make_model(), Squares(COUNT))
    held, waiting = threading.Event(), threading.Event()

    def hold():
        with store.lock_shard(4):
            held.set()
            waiting.wait(60)

    class Notice(logging.Handler):
        def emit(self, record):
            waiting.set()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    handler = Notice()
    claims.log.addHandler(handler)
    with caplog.at_level(logging.INFO):
        assert fill(store) == list(range(10))
    claims.log.removeHandler(handler)
    holder.join()
    assert "waiting for shards [4], which other processes compute" in caplog.text
    assert read_files(store) == whole


def test_with_workers_all_other_shards_are_done_and_free_before_it_waits(tmp_path):
    """Workers read ahead: who then waited with shards in hand would wait for ever for one who waits for those."""
    store, others = make_store(tmp_path, make_model(), Squares(COUNT)), list(range(9))
    with store.lock_shard(9):
        waiter = threading.Thread(target=fill, args=(store,), kwargs={"num_workers": 2})
        waiter.start()
        deadline = time.monotonic() + 60
        while store.missing_shards() != [9] and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in others:
            with store.lock_shard(number).acquire(timeout=10):
                pass
    waiter.join()
    assert store.missing_shards() == []


def test_waiting_while_holding_is_refused(tmp_path):
    store = make_store(tmp_path, make_model(), Squares(COUNT))
    with Claims(store, range(10), 0, 1, True, int) as claimed:
        with store.lock_shard(3):
            first = list(claimed.plan(4))
        assert len(first) == 9
        with pytest.raises(RuntimeError, match="waiting for shard 3 while holding"):
            next(claimed.plan(4, wait=True))


def test_what_another_process_has_computed_meanwhile_is_not_computed_again(tmp_path):
    model, source = make_model(), Squares(COUNT)
    store = make_store(tmp_path, model, source)
    missing, found = store.missing_shards(), []
    fill(store)
    with Claims(store, missing, 0, 1, True, found.append) as claimed:
        assert list(claimed.plan(3)) == []
    assert sum(found) == COUNT


def test_processes_begin_at_places_of_their_own_and_take_over_the_rest(tmp_path):
    store = make_store(tmp_path, make_model(), Squares(COUNT))
    orders = []
    for rank in range(3):
        with Claims(store, range(10), rank, 3, True, int) as claimed:
            orders.append([indices[0] // 4 for indices in claimed.plan(4)])
    assert [order[0] for order in orders] == [0, 3, 6]
    assert [sorted(order) for order in orders] == [list(range(10))] * 3


def test_an_error_lets_go_of_what_was_claimed(tmp_path):
    class Broken(Squares):
        def __getitem__(self, index):
            if index == 9:
                raise ValueError("9 cannot be read")
            return super().__getitem__(index)

    store = make_store(tmp_path, make_model(), Squares(COUNT))
    with pytest.raises(ValueError, match="9 cannot be read"):
        fill_store(make_model(), Broken(COUNT), store, 3, progress=False)
    assert store.missing_shards() == list(range(2, 10))
    assert fill(store, wait=False) == list(range(2, 10))


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2)])
def test_a_rank_out_of_range_is_refused(tmp_path, rank, world_size):
    store = make_store(tmp_path, make_model(), Squares(COUNT))
    with pytest.raises(ValueError, match="rank must be 0 to world_size - 1"):
        fill(store, rank=rank, world_size=world_size)
