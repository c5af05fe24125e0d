"""Stores on a web server, and file systems that fail in their own ways."""

import errno
import importlib.util
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.remote import open_store
from asyrp_lit.data.stored_latents import StoredLatents
from asyrp_lit.training.terminate import Terminated

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


class TwoPartsError(ValueError):
    """One that no other process can make again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("status", [403, 404])
def test_a_web_server_that_answers_no_listing_is_named_too(web, tmp_path, monkeypatch, status):
    monkeypatch.setattr(QuietHandler, "list_directory", lambda self, path: self.send_error(status))
    with pytest.raises(ValueError, match=rf"{web[0]} does not list its files \(.+\), so that nobody sees"):
        StoredLatents(open_store(web[0], tmp_path / "cache", MIB))


class NoCredentialsError(Exception):
    """As botocore's: neither an OSError nor a ValueError."""


class FailingFiles(MemoryFileSystem):
    """A file system in memory whose calls fail as ``failures`` says; the name of the first is ``open``."""

    store, pseudo_dirs, failures = {}, [""], {}
    cachable = False

    def __init__(self, **options):
        self.fail("open")
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("failing://"))

    def fail(self, call):
        if call in self.failures:
            raise self.failures[call]

    def cat_file(self, path, **options):
        self.fail("cat_file")
        return super().cat_file(path, **options)

    def get_file(self, path, local, **options):
        Path(local).write_bytes(b"half")
        self.fail("get_file")
        return super().get_file(path, local, **options)

    def ls(self, path, **options):
        self.fail("ls")
        return super().ls(path, **options)


@pytest.fixture
def failures(tmp_path, monkeypatch):
    """What the calls on ``failing://bucket/store``, which has a store, fail with."""
    monkeypatch.setattr(FailingFiles, "failures", {})
    fsspec.register_implementation("failing", FailingFiles, clobber=True)
    for path in stores.make_full_store(tmp_path / "local").folder.glob("*.*"):
        FailingFiles().pipe_file(f"/bucket/store/{path.name}", path.read_bytes())
    return FailingFiles.failures


def read(tmp_path):
    return StoredLatents(open_store("failing://bucket/store", tmp_path / "cache", MIB))[0]


@pytest.mark.parametrize(
    ("call", "place"), [("cat_file", "manifest.json"), ("ls", ""), ("get_file", "shard-00000.safetensors")]
)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NoCredentialsError("Unable to locate credentials"), r"NoCredentialsError: Unable to locate credentials"),
        (TimeoutError(), "TimeoutError"),
        (PermissionError("Forbidden"), "PermissionError: Forbidden"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), r"ConnectionRefusedError: \[Errno \d+\] refused"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_a_file_system_raises_becomes_one_error_with_the_url(failures, tmp_path, call, place, error, reason):
    failures[call] = error
    with pytest.raises(OSError, match=rf"^failing://bucket/store/?{place} cannot be read \({reason}\): see to the add"):
        read(tmp_path)
    assert not [path for path in tmp_path.glob("cache/*/*") if path.suffix in (".tmp", ".safetensors")]
    failures.clear()
    assert int(read(tmp_path).labels[0]) == 0


@pytest.mark.parametrize("call", ["open", "cat_file"])
def test_a_package_that_is_missing_is_named_with_what_brings_it(failures, tmp_path, call):
    failures[call] = ImportError("Install s3fs to access S3")
    with pytest.raises(ValueError, match=r"Install s3fs to access S3\): pip install 'asyrp_lit\[remote\]'"):
        read(tmp_path)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(), OSError(errno.EDQUOT, "Quota")])
def test_an_interrupt_sigterm_and_a_full_disk_stay_what_they_are(failures, tmp_path, stop):
    failures["get_file"] = stop
    with pytest.raises(type(stop)) as caught:
        read(tmp_path)
    assert caught.value is stop


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device: 'CACHE'"),
        (ValueError("a line\nnote: another"), "a line\nnote: another"),
    ],
    ids=["full disk", "two lines"],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_reading_process_is_what_it_would_be_without(failures, tmp_path, workers, error, message):
    store = open_store("failing://bucket/store", tmp_path / "cache", MIB)
    data = LatentsDataModule(store, store, 4, num_workers=workers)
    data.setup("fit")
    failures["get_file"] = error
    with pytest.raises(type(error)) as caught:
        next(iter(data.train_dataloader()))
    assert str(caught.value) == message.replace("CACHE", str(store.folder))
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_an_error_that_cannot_be_sent_ends_a_reading_process_too(failures, tmp_path):
    store = open_store("failing://bucket/store", tmp_path / "cache", MIB)
    data = LatentsDataModule(store, store, 4, num_workers=1)
    data.setup("fit")
    failures["get_file"] = TwoPartsError("one", "two")
    with pytest.raises(Exception, match="one and two"):
        next(iter(data.train_dataloader()))


def test_a_shard_that_has_gone_since_it_was_listed_is_named(failures, tmp_path):
    source = StoredLatents(open_store("failing://bucket/store", tmp_path / "cache", MIB))
    failures["get_file"] = FileNotFoundError("/bucket/store/x")
    with pytest.raises(FileNotFoundError, match=r"there is no failing://bucket/store/shard-00000.safetensors: copy"):
        source[0]
