"""Stores at URLs; fsspec's file system in memory stands for s3:// and the like."""

import importlib.util
import os
import pickle
from pathlib import Path

import fsspec
import pytest
import torch

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.remote import ShardCache, is_url, open_store
from asyrp_lit.data.stored_latents import StoredLatents

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
    opened = cache.fetch(names[0]).open("rb")
    cache.fetch(names[1])
    for k, name in enumerate(names[:2]):
        os.utime(tmp_path / "cache" / name, (k, k))
    cache.fetch(names[0])  # now the one that was used last
    cache.fetch(names[2])
    assert sorted(path.name for path in (tmp_path / "cache").glob("*.safetensors")) == [names[0], names[2]]
    assert opened.read() == local.shard_path(0).read_bytes()
    assert cache.fetch(names[1]).read_bytes() == local.shard_path(1).read_bytes()


def test_a_limit_below_one_shard_still_reads(remote, tmp_path):
    store = open_store(URL, tmp_path / "cache", 1)
    assert [int(store[i]["labels"][0]) for i in (0, 9, 4, 1)] == [0, 9, 4, 1]
    assert count_shards(tmp_path / "cache") == 1


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


def test_a_damaged_shard_is_moved_aside_and_fetched_again(remote, tmp_path):
    files, local = remote
    content = bytearray(local.shard_path(0).read_bytes())
    content[-1] ^= 1
    files.pipe_file("/bucket/store/shard-00000.safetensors", bytes(content))
    with pytest.raises(ValueError, match="corrupt"):
        open_store(URL, tmp_path / "cache", MIB)[0]
    files.pipe_file("/bucket/store/shard-00000.safetensors", local.shard_path(0).read_bytes())
    assert int(open_store(URL, tmp_path / "cache", MIB)[0]["labels"][0]) == 0


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
