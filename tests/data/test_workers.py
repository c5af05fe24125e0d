"""Reading processes take no more shared memory than there is, and end quietly."""

import os
import signal
from multiprocessing import active_children
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader

from asyrp_lit.data import workers
from asyrp_lit.data.workers import end_on_sigterm, fit_read_ahead

MIB = 2**20


@pytest.fixture
def shared_memory(tmp_path, monkeypatch):
    """Set the MiB that are free in shared memory."""
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path)
    return lambda free: monkeypatch.setattr(
        workers.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free * MIB))
    )


@pytest.mark.parametrize(
    ("free", "wanted", "given"),
    [
        (1000, (2, 8), (2, 8)),
        (34, (2, 8), (2, 8)),  # 17 batches in half of it: one in use, 8 ahead in each of two processes
        (20, (2, 8), (2, 4)),
        (4, (2, 8), (1, 1)),
        (2, (2, 8), (0, 0)),
        (0, (1, 8), (0, 0)),
        (0, (0, 8), (0, 8)),
    ],
)
def test_what_is_read_ahead_fits_into_shared_memory(shared_memory, free, wanted, given, caplog):
    shared_memory(free)
    assert fit_read_ahead(*wanted, batch_bytes=MIB) == given
    assert ("give a container more" in caplog.text) == (given[0] < wanted[0])


def test_the_processes_of_a_training_share_it(shared_memory):
    shared_memory(36)
    assert fit_read_ahead(1, 8, MIB, world_size=2) == (1, 8)
    assert fit_read_ahead(1, 8, MIB, world_size=3) == (1, 5)


def test_where_there_is_no_shared_memory_nothing_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "SHARED_MEMORY", tmp_path / "none")
    assert fit_read_ahead(2, 8, MIB) == (2, 8)


def test_sigterm_ends_a_reading_process_without_an_error_in_the_other():
    loader = DataLoader(range(100), batch_size=None, num_workers=1, worker_init_fn=end_on_sigterm)
    reading = iter(loader)
    assert next(reading) == 0
    (process,) = active_children()
    os.kill(process.pid, signal.SIGTERM)
    process.join(20)  # torch's handler of SIGCHLD would raise here
    assert process.exitcode == 0
