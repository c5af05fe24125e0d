"""Stores at URLs; fsspec's file system in memory stands for s3:// and the like."""

import importlib.util
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from filelock import FileLock

from asyrp_lit.data import latents
from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.remote import ShardCache, open_store
from asyrp_lit.data.stored_latents import StoredLatents
from asyrp_lit.data.urls import is_url

spec = importlib.util.spec_from_file_location("stores", Path(__file__).with_name("test_latents.py"))
stores = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stores)
URL = "memory://bucket/store"
MIB = 2**20


@pytest.fixture
def remote(tmp_path):
    """A store in memory, and the same on the local disk."""
    local = stores.make_full_store(tmp_path / "local")
    files = fsspec.filesystem("memory")
    for path in local.folder.glob("*.*"):
        files.pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    yield files, local
    files.rm("/bucket", recursive=True)


def count_shards(folder):
    return len(list(folder.glob("*/*.safetensors")))


def fetch(cache, name):
    with cache.hold(name) as path:
        return path.open("rb")


def replace_store(files, root, **changes):
    """Put another store of the same images at the URL; its copy on the local disk."""
    local = stores.make_store(root, key=replace(stores.KEY, **changes))
    for k in range(local.num_shards):
        local.write_shard(k, stores.make_tensors(local.shard_indices(k), seed=9 + k))
    for path in local.folder.glob("*.*"):
        files.pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    return local


@pytest.mark.parametrize(("place", "wanted"), [(URL, True), ("s3://b/x", True), ("/a/b", False), (Path("a"), False)])
def test_urls_are_told_from_paths(place, wanted):
    assert is_url(place) is wanted


def test_a_remote_store_reads_as_the_local_one_and_fetches_what_is_asked_for(remote, tmp_path):
    _, local = remote
    store = open_store(URL, tmp_path / "cache", MIB)
    assert (store.key, store.item_keys, store.place) == (local.key, local.item_keys, URL)
    assert store.is_complete()
    assert count_shards(tmp_path / "cache") == 0
    assert all(torch.equal(value, local[5][name]) for name, value in store[5].items())
    assert count_shards(tmp_path / "cache") == 1
    assert all(torch.equal(pickle.loads(pickle.dumps(store))[i]["x_T"], local[i]["x_T"]) for i in range(10))


def test_a_local_place_is_opened_as_ever(remote, tmp_path):
    _, local = remote
    assert torch.equal(open_store(str(local.folder), tmp_path / "cache", MIB)[3]["x_T"], local[3]["x_T"])
    assert not (tmp_path / "cache").exists()


def test_the_cache_keeps_what_was_used_last_and_open_shards_stay_readable(remote, tmp_path):
    _, local = remote
    size = local.shard_path(0).stat().st_size
    cache = ShardCache(URL, tmp_path / "cache", 2 * size)
    names = [local.shard_path(k).name for k in range(3)]
    opened = fetch(cache, names[0])
    fetch(cache, names[1])
    for k, name in enumerate(names[:2]):
        os.utime(tmp_path / "cache" / name, (k, k))
    fetch(cache, names[0])  # now the one that was used last
    fetch(cache, names[2])
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.safetensors")) == [names[0], names[2]]
    assert opened.read() == local.shard_path(0).read_bytes()
    assert fetch(cache, names[1]).read() == local.shard_path(1).read_bytes()


def test_a_limit_below_one_shard_still_reads(remote, tmp_path):
    store = open_store(URL, tmp_path / "cache", 1)
    assert [int(store[i]["labels"][0]) for i in (0, 9, 4, 1)] == [0, 9, 4, 1]
    assert count_shards(tmp_path / "cache") == 1


def test_a_shard_that_another_process_opens_is_not_removed(remote, tmp_path, monkeypatch):
    first, second = (open_store(URL, tmp_path / "cache", 1) for _ in range(2))
    map_shard = latents.safe_open

    def open_late(path, framework):
        monkeypatch.undo()
        other = threading.Thread(target=second.__getitem__, args=(4,))  # makes room for shard 1, as it should
        other.start()
        other.join()
        return map_shard(path, framework)

    monkeypatch.setattr(latents, "safe_open", open_late)
    assert int(first[0]["labels"][0]) == 0
    assert int(second[9]["labels"][0]) == 9
    assert count_shards(tmp_path / "cache") == 1


def test_a_shard_that_was_used_since_it_was_listed_is_not_removed(remote, tmp_path, monkeypatch):
    _, local = remote
    cache = ShardCache(URL, tmp_path / "cache", MIB)
    names = [local.shard_path(k).name for k in range(3)]
    for k, name in enumerate(names):
        fetch(cache, name).close()
        os.utime(cache.folder / name, (k, k))
    cache.limit = 2 * local.shard_path(0).stat().st_size
    listed = list(cache._list_entries())
    fetch(cache, names[0]).close()  # by another process
    monkeypatch.setattr(cache, "_list_entries", lambda: listed)
    cache.make_room()
    assert sorted(path.name for path in cache.folder.glob("*.safetensors")) == [names[0], names[2]]


def test_threads_that_share_a_cache_below_what_they_need_all_read(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "OPEN_SHARDS", 1)
    found = []

    def read(start):
        store = open_store(URL, tmp_path / "cache", 1)
        found.extend(int(store[i % 10]["labels"][0]) == i % 10 for i in range(start, start + 40, 3))

    readers = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert found == [True] * 4 * 14


def test_a_warm_cache_is_cut_to_the_limit_when_it_is_opened(remote, tmp_path):
    _, local = remote
    store = open_store(URL, tmp_path / "cache", MIB)
    assert [int(store[i]["labels"][0]) for i in (0, 4, 8)] == [0, 4, 8]
    for k in (1, 2, 0):
        os.utime(store.shard_path(k), (10 - k, 10 - k))
    open_store(URL, tmp_path / "cache", 2 * local.shard_path(0).stat().st_size)
    assert sorted(path.name for path in store.folder.glob("*.safetensors")) == [
        local.shard_path(k).name for k in (0, 1)
    ]


def test_what_killed_downloads_left_goes_and_running_ones_stay_and_count(remote, tmp_path):
    _, local = remote
    store = open_store(URL, tmp_path / "cache", MIB)
    assert int(store[0]["labels"][0]) == 0
    left, running = (store.folder / f".shard-0000{k}.safetensors.0a1b2c3d.tmp" for k in (1, 2))
    aside = store.folder / "shard-00001.damaged"
    for path in (left, running, aside):
        path.write_bytes(b"x" * 100)
    limit = local.shard_path(0).stat().st_size
    with FileLock(store.folder / "shard-00002.safetensors.lock"):
        open_store(URL, tmp_path / "cache", limit + 100)
        assert [left.exists(), running.exists(), aside.exists(), count_shards(tmp_path / "cache")] == [0, 1, 0, 1]
        open_store(URL, tmp_path / "cache", limit)
        assert [running.exists(), count_shards(tmp_path / "cache")] == [True, 0]
    open_store(URL, tmp_path / "cache", limit)
    assert not running.exists()


def test_a_download_that_breaks_leaves_nothing_behind(remote, tmp_path, monkeypatch):
    store = open_store(URL, tmp_path / "cache", MIB)

    def break_off(remote_path, local_path):
        Path(local_path).write_bytes(b"half")
        raise OSError("connection lost")

    monkeypatch.setattr(store.cache.files, "get_file", break_off)
    with pytest.raises(OSError, match="connection lost"):
        store[0]
    assert not [path for path in store.cache.folder.iterdir() if path.suffix in (".tmp", ".safetensors")]
    monkeypatch.undo()
    assert int(store[0]["labels"][0]) == 0


def test_shards_that_are_missing_or_short_are_found_without_a_download(remote, tmp_path):
    files, _ = remote
    store = open_store(URL, tmp_path / "cache", MIB)
    files.rm_file("/bucket/store/shard-00001.safetensors")
    files.pipe_file("/bucket/store/shard-00002.safetensors", b"short")
    assert store.missing_shards() == [1, 2]
    assert store.missing_shards([0, 2]) == [2]
    assert count_shards(tmp_path / "cache") == 0
    with pytest.raises(ValueError, match=r"memory://bucket/store lacks 2 of 3 shards"):
        StoredLatents(store)


def test_a_shard_that_is_damaged_at_its_url_is_named_and_leaves_nothing_behind(remote, tmp_path):
    files, local = remote
    content = bytearray(local.shard_path(0).read_bytes())
    content[-1] ^= 1
    files.pipe_file("/bucket/store/shard-00000.safetensors", bytes(content))
    with pytest.raises(ValueError, match=r"memory://bucket/store/shard-00000.safetensors is truncated or corrupt"):
        open_store(URL, tmp_path / "cache", MIB)[0]
    assert not [path for path in tmp_path.glob("cache/*/*") if path.suffix not in (".json", ".lock")]
    files.pipe_file("/bucket/store/shard-00000.safetensors", local.shard_path(0).read_bytes())
    assert int(open_store(URL, tmp_path / "cache", MIB)[0]["labels"][0]) == 0


def test_a_damaged_copy_is_fetched_again_once(remote, tmp_path, monkeypatch):
    files, local = remote
    path = open_store(URL, tmp_path / "cache", MIB).shard_path(0)
    get_file, asked = type(files).get_file, []
    monkeypatch.setattr(type(files), "get_file", lambda *args: (asked.append(args[1]), get_file(*args)))
    path.write_bytes(local.shard_path(0).read_bytes()[:-1])
    assert torch.equal(open_store(URL, tmp_path / "cache", MIB)[0]["x_T"], local[0]["x_T"])
    assert len(asked) == 1
    path.write_bytes(b"damaged")
    files.pipe_file("/bucket/store/shard-00000.safetensors", b"damaged too")
    with pytest.raises(ValueError, match="corrupt"):
        open_store(URL, tmp_path / "cache", MIB)[0]
    assert len(asked) == 2


def test_a_store_that_was_replaced_at_its_url_is_read_at_the_first_start(remote, tmp_path):
    files, _ = remote
    old = open_store(URL, tmp_path / "cache", MIB)
    assert [int(old[i]["labels"][0]) for i in range(10)] == list(range(10))
    local = replace_store(files, tmp_path / "other", source_fingerprint="ef56")
    store = open_store(URL, tmp_path / "cache", MIB)
    assert all(torch.equal(store[i]["x_T"], local[i]["x_T"]) for i in range(10))


def test_a_run_never_takes_shards_of_the_store_that_replaced_its_own(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "OPEN_SHARDS", 1)
    files, _ = remote
    old = open_store(URL, tmp_path / "cache", MIB)
    assert [int(old[i]["labels"][0]) for i in (0, 4)] == [0, 4]
    local = replace_store(files, tmp_path / "other", source_fingerprint="ef56")
    new = open_store(URL, tmp_path / "cache", MIB)
    assert torch.equal(new[0]["x_T"], local[0]["x_T"])
    with pytest.raises(ValueError, match="start again if the store was replaced"):
        old[0]  # verified before, but of another store now
    assert new.shard_path(0).read_bytes() == local.shard_path(0).read_bytes()  # the copy of the new one is kept


def test_a_url_without_a_store_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no latent store at memory://nowhere/store"):
        open_store("memory://nowhere/store", tmp_path, MIB)


def test_stored_latents_are_the_source_that_the_store_was_made_of(remote, tmp_path):
    _, local = remote
    source = StoredLatents(open_store(URL, tmp_path / "cache", MIB))
    assert (source.name, source.size, source.fingerprint()) == ("some images", 8, "cd34")
    assert (source.keys, len(source)) == (local.item_keys, 10)
    item = source[7]
    assert item.x_0.min() >= -1
    assert torch.equal(item.labels, local[7]["labels"])


def test_lightning_reads_remote_stores(remote, tmp_path):
    store = open_store(URL, tmp_path / "cache", MIB)
    data = LatentsDataModule(store, store, 4, shuffle=False, num_workers=1)
    data.prepare_data()
    data.setup("fit")
    assert torch.cat([batch.index for batch in data.val_dataloader()]).tolist() == list(range(10))


def test_a_reading_process_opens_a_file_system_of_its_own(remote, tmp_path, monkeypatch):
    files, parent = remote[0], os.getpid()
    get_file = type(files).get_file

    def refuse_forks(self, *args):  # as those of s3 and gcs do
        if self is files and os.getpid() != parent:
            raise RuntimeError("This class is not fork-safe")
        get_file(self, *args)

    monkeypatch.setattr(type(files), "get_file", refuse_forks)
    store = open_store(URL, tmp_path / "cache", MIB)
    assert store.cache.files is files
    data = LatentsDataModule(store, store, 4, num_workers=1)
    data.setup("fit")
    assert sum(len(batch.index) for batch in data.train_dataloader()) == 12
