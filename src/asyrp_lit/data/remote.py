"""Latent stores at URLs (s3://, gs://, any file system of fsspec), read through a local cache of limited size."""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock

from asyrp_lit.data.latent_manifest import count_item_bytes, read_manifest
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.files import write_atomically

log = logging.getLogger(__name__)

#: What a downloaded shard ends in.
_SUFFIX = ".safetensors"


def is_url(place: object) -> bool:
    """Whether a place is one of fsspec's URLs rather than a local path."""
    return "://" in str(place)


class ShardCache:
    """Files of a remote folder on the local disk, the least recently used removed when they become too many.

    Several processes may share it: a file is downloaded by one of them, under its name only when it is whole, and one
    that is removed while another process has it open stays readable there.

    Args:
        url: the remote folder.
        folder: local folder of the files of this URL, and nothing else.
        limit: bytes that they may take; what is being used is kept even where it is more.
    """

    def __init__(self, url: str, folder: Path, limit: int) -> None:
        self.url = url.rstrip("/")
        self.folder = folder
        self.limit = limit
        self.files, self.root = fsspec.core.url_to_fs(self.url)

    def fetch(self, name: str) -> Path:
        """The local copy of a file, downloaded where it is missing.

        Raises:
            FileNotFoundError: the remote folder has no such file.
            OSError: the network or the disk fails.
        """
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{name}.lock"):
            if path.is_file():
                os.utime(path)  # it was used
                return path
            temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
            try:
                self.files.get_file(f"{self.root}/{name}", str(temporary))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        self._make_room(path)
        return path

    def list_sizes(self) -> dict[str, int]:
        """Bytes of every file of the remote folder, by name.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        self.files.invalidate_cache()
        return {entry["name"].rsplit("/", 1)[-1]: entry["size"] for entry in self.files.ls(self.root, detail=True)}

    def read(self, name: str) -> bytes:
        """A small file, past the cache.

        Raises:
            FileNotFoundError: there is none.
        """
        content: bytes = self.files.cat_file(f"{self.root}/{name}")
        return content

    def _make_room(self, kept: Path) -> None:
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # another process was quicker
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            if path != kept:
                path.unlink(missing_ok=True)
                total -= size


class RemoteLatentStore(LatentStore):
    """A complete store at a URL. It is read only; shards come through the cache when they are asked for.

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

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.cache.url, self.cache.folder.parent, self.cache.limit)

    @property
    def place(self) -> str:
        """The URL."""
        return self.cache.url

    def locate_shard(self, number: int) -> Path:
        """The local copy of a shard, downloaded where it is missing."""
        return self.cache.fetch(self.shard_path(number).name)

    @property
    def verify(self) -> bool:
        """Never: checksums are looked at on first use, shard by shard."""
        return False

    def missing_shards(self, among: Iterable[int] | None = None, verify: bool = True) -> list[int]:
        """Shards that are not at the URL, or too short there; none is downloaded for it."""
        sizes, item_bytes = self.cache.list_sizes(), count_item_bytes(self.specs)
        numbers = range(self.num_shards) if among is None else among
        return [k for k in numbers if sizes.get(self.shard_path(k).name, -1) < item_bytes * len(self.shard_indices(k))]


def open_store(place: str | Path, cache: Path | str, limit: int) -> LatentStore:
    """Open a store by its local folder or its URL.

    Args:
        place: either.
        cache: local folder for parts of remote stores.
        limit: bytes that the parts of this one may take.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the manifest is half-written or of another format version.
        ImportError: fsspec needs a package for this kind of URL; the message names it.
    """
    if not is_url(place):
        return LatentStore.open(place)
    url = str(place).rstrip("/")
    name = f"{url.rsplit('/', 1)[-1]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    try:
        return RemoteLatentStore(ShardCache(url, Path(cache) / name, limit))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no latent store at {url} (no manifest.json there): copy a store's folder") from error
