"""Latent stores at URLs (s3://, gs://, any file system of fsspec), read through a local cache of limited size."""

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from filelock import FileLock, Timeout
from torch import Tensor

from asyrp_lit.data.latent_manifest import count_item_bytes, read_manifest
from asyrp_lit.data.latent_shards import belongs_to, is_intact
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.urls import errors_name, is_url
from asyrp_lit.files import FULL, write_atomically

log = logging.getLogger(__name__)

#: A shard in the cache, what a killed download left of one, and what earlier versions moved aside.
_ENTRY = re.compile(r"\.?(?P<shard>.+?)(\.safetensors|\.safetensors\.\w+\.tmp|\.damaged)")


class _Entry(NamedTuple):
    """A file of a cache; what can be spared first sorts first.

    Attributes:
        is_copy: of a shard, not what is left of one.
        used: when, in ns.
        size: bytes.
        path: the file.
        shard: name of the shard whose lock guards it.
    """

    is_copy: bool
    used: int
    size: int
    path: Path
    shard: str


class ShardCache:
    """Files of a remote folder on the local disk, the least recently used removed when they become too many.

    Several processes may share it. Who downloads or opens a file holds its lock, and a file is removed only by who gets
    its lock without waiting; open files stay readable when they are removed. Nobody waits for a lock while it holds
    another.

    Args:
        url: the remote folder.
        folder: local folder of the files of this URL, and nothing else.
        limit: bytes that they may take; what is being used is kept even where it is more.
    """

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.url = url.rstrip("/")
        self.folder = folder
        self.limit = limit
        with errors_name(self.url):
            self.root: str = fsspec.core.url_to_fs(self.url)[1]

    @property
    def files(self) -> fsspec.AbstractFileSystem:
        """The file system of this process: those of s3 and gcs refuse to work in a fork of the one that made them."""
        return fsspec.core.url_to_fs(self.url)[0]

    @contextmanager
    def hold(
        self, name: str, usable: Callable[[Path], bool] = Path.is_file, whole: Callable[[Path], bool] = Path.is_file
    ) -> Iterator[Path]:
        """The local copy of a file, which nobody removes before the block ends: open it there.

        Args:
            name: of the file.
            usable: whether a copy will do; one that is missing or will not is downloaded, once.
            whole: whether a download is right; only then does it take the place of the copy that is there.

        Raises:
            FileNotFoundError: the remote folder has no such file.
            OSError: the network or the disk fails.
            ValueError: the file was downloaded and is not right.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        with FileLock(self.folder / f"{name}.lock"):
            is_new = not usable(path)
            if is_new:
                self._download(path, whole)
            os.utime(path)  # it was used
            yield path
        if is_new:
            self.make_room(kept=name)

    def _download(self, path: Path, whole: Callable[[Path], bool]) -> None:
        if path.is_file():
            log.info("%s is not, or no longer, what %s has, and is fetched again", path, self.url)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with errors_name(f"{self.url}/{path.name}"):
                self.files.get_file(f"{self.root}/{path.name}", str(temporary))
            if not whole(temporary):
                raise ValueError(
                    f"{self.url}/{path.name} is truncated or corrupt, or of another store than the manifest that was "
                    "read there (wrong checksum): start again if the store was replaced meanwhile, else copy it there "
                    "again"
                )
            temporary.replace(path)
        except OSError as error:
            if error.errno in FULL:
                error.filename = str(self.folder)
            raise
        finally:
            temporary.unlink(missing_ok=True)

    def list_sizes(self) -> dict[str, int | None]:
        """Bytes of every file of the remote folder, by name; ``None`` where a listing has no sizes, as over http.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        with errors_name(self.url):
            self.files.invalidate_cache()
            return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in self.files.ls(self.root, detail=True)}

    def read(self, name: str) -> bytes:
        """A small file, past the cache.

        Raises:
            FileNotFoundError: there is none.
        """
        with errors_name(f"{self.url}/{name}"):
            content: bytes = self.files.cat_file(f"{self.root}/{name}")
        return content

    def make_room(self, kept: str = "") -> None:
        """Remove what is of no use, then the least recently used files, until the rest is within the limit.

        Files that somebody downloads or opens at the moment count, and are left.

        Args:
            kept: name of a file to leave.
        """
        entries = sorted(self._list_entries())
        total = sum(entry.size for entry in entries)
        for entry in entries:
            if entry.is_copy and total <= self.limit:
                return
            if entry.path.name != kept and self._remove(entry):
                total -= entry.size

    def _list_entries(self) -> Iterator[_Entry]:
        for path in self.folder.iterdir():
            if match := _ENTRY.fullmatch(path.name):
                shard = f"{match['shard']}.safetensors"
                with suppress(FileNotFoundError):  # another process was quicker
                    status = path.stat()
                    yield _Entry(path.name == shard, status.st_mtime_ns, status.st_size, path, shard)

    def _remove(self, entry: _Entry) -> bool:
        """Remove a file that has not been used since it was listed; whether it is gone."""
        try:
            with FileLock(self.folder / f"{entry.shard}.lock", blocking=False):
                if entry.path.stat().st_mtime_ns != entry.used:
                    return False
                entry.path.unlink()
        except Timeout:
            return False
        except FileNotFoundError:
            pass  # another process was quicker
        return True


class RemoteLatentStore(LatentStore):
    """A complete store at a URL. It is read only; shards come through the cache when they are asked for.

    A copy that does not fit the manifest is fetched again: the store at the URL was replaced since, or the copy is
    damaged.

    Args:
        cache: of the store's folder.
    """

    def __init__(self, cache: ShardCache) -> None:
        cache.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(cache.folder / "manifest.json", cache.read("manifest.json"))
        manifest = read_manifest(cache.folder)
        if manifest is None:
            raise ValueError(f"{cache.url}/manifest.json is half-written: copy the store there again")
        super().__init__(cache.folder, manifest)
        self.cache = cache
        cache.make_room()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.cache.url, self.cache.folder.parent, self.cache.limit)

    @property
    def place(self) -> str:
        """The URL."""
        return self.cache.url

    @property
    def verify(self) -> bool:
        """Never: checksums are looked at on first use, shard by shard."""
        return False

    def missing_shards(self, among: Iterable[int] | None = None, verify: bool = True) -> list[int]:
        """Shards that are not at the URL, or too short there; none is downloaded for it.

        Where the listing has no sizes, a shard that is too short is found by its checksum, on first use.

        Raises:
            ValueError: the server does not list the folder.
            OSError: it cannot be reached.
        """
        reason = ""
        try:
            sizes = self.cache.list_sizes()
        except OSError as error:
            refused = getattr(error.__cause__, "status", None) in (401, 403, 405)
            if not refused and not isinstance(error, FileNotFoundError):
                raise
            sizes, reason = {}, f" ({error.__cause__})"
        if "manifest.json" not in sizes:  # it has been read
            raise ValueError(
                f"{self.place} does not list its files{reason}, so that nobody sees whether all shards are there: have "
                "the server list that folder, or copy it to this machine and name the copy"
            )
        item_bytes = count_item_bytes(self.specs)

        def is_missing(number: int) -> bool:
            size = sizes.get(self.shard_path(number).name, -1)
            return size is not None and size < item_bytes * len(self.shard_indices(number))

        return [k for k in (range(self.num_shards) if among is None else among) if is_missing(k)]

    def _open_shard(self, number: int) -> dict[str, Tensor]:
        is_right = partial(is_intact, identity=self.identity, number=number)
        # Later copies were verified by whoever downloaded them, but maybe against another manifest.
        is_ours = partial(belongs_to, identity=self.identity, number=number)
        usable = is_ours if number in self._verified else is_right
        with self.cache.hold(self.shard_path(number).name, usable, is_right) as path:
            self._verified.add(number)
            return self._map_shard(path)


def open_store(place: str | Path, cache: Path | str, limit: int) -> LatentStore:
    """Open a store by its local folder or its URL.

    Args:
        place: either.
        cache: local folder for parts of remote stores.
        limit: bytes that the parts of this one may take.

    Raises:
        FileNotFoundError: there is none.
        OSError: the URL cannot be read.
        ValueError: the manifest is half-written or of another format version, fsspec knows no such kind of URL or needs
            a package for it.
    """
    if not is_url(place):
        return LatentStore.open(place)
    url = str(place).rstrip("/")
    name = f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    try:
        return RemoteLatentStore(ShardCache(url, Path(cache) / name, limit))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no latent store at {url} (no manifest.json there): copy a store's folder") from error
