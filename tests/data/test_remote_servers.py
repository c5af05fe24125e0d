"""Stores on a web server, and file systems that fail in their own ways."""

import importlib.util
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.remote import open_store
from asyrp_lit.data.stored_latents import StoredLatents

spec = importlib.util.spec_from_file_location("stores", Path(__file__).with_name("test_latents.py"))
stores = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stores)
MIB = 2**20


class QuietHandler(SimpleHTTPRequestHandler):
    """Python's own server of files, without a line for each."""

    def log_message(self, *args):
        pass


@pytest.fixture
def web(tmp_path):
    """A store on a web server of this machine: its URL and folder."""
    local = stores.make_full_store(tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/{local.folder.name}", local
        server.shutdown()


def test_a_store_on_a_web_server_whose_listing_has_no_sizes_is_read(web, tmp_path):
    url, local = web
    store = StoredLatents(open_store(url, tmp_path / "cache", MIB)).store
    assert set(store.cache.list_sizes().values()) == {None}
    assert all(torch.equal(store[i]["x_T"], local[i]["x_T"]) for i in range(10))


def test_a_reading_process_reads_from_a_web_server(web, tmp_path):
    store = open_store(web[0], tmp_path / "cache", MIB)
    data = LatentsDataModule(store, store, 4, num_workers=1)
    data.setup("fit")
    assert sum(len(batch.index) for batch in data.train_dataloader()) == 12


def test_shards_that_a_web_server_lacks_are_found_at_once_and_short_ones_on_first_use(web, tmp_path):
    url, local = web
    store = open_store(url, tmp_path / "cache", MIB)
    local.shard_path(1).unlink()
    local.shard_path(2).write_bytes(local.shard_path(2).read_bytes()[:-1])
    assert store.missing_shards() == [1]
    assert not list(tmp_path.glob("cache/*/*.safetensors"))
    with pytest.raises(ValueError, match=r"shard-00002.safetensors is truncated or corrupt"):
        store[8]


def test_a_web_server_that_lists_nothing_is_named(web, tmp_path):
    url, local = web
    (local.folder / "index.html").write_text("welcome")
    with pytest.raises(ValueError, match=f"{url} does not list its files"):
        StoredLatents(open_store(url, tmp_path / "cache", MIB))
