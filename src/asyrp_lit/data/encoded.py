"""Images that lie encoded on disk: what folders, LMDBs and data sets of the Hugging Face hub have in common."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from filelock import FileLock

from asyrp_lit.data.decode import load_image
from asyrp_lit.data.source import ImageItem
from asyrp_lit.data.split import SeededPart, take_part
from asyrp_lit.files import hold_alone, write_atomically

log = logging.getLogger(__name__)

#: Names of bad images that a warning spells out.
_NAMED = 5


class EncodedImages(ABC):
    """An ``ImageSource`` without labels that decodes an image when it is asked for; can be pickled.

    Subclasses list the keys and read the bytes of one.

    Args:
        path: where the images lie.
        size: edge of every image in pixels.
        on_bad_image: ``error`` raises when a damaged image is read; ``skip`` reads every image on opening, leaves the
            damaged ones out and logs one warning.
        name: for reports and folders; ``None`` takes that of the path.
        limit: how many images of the sorted list to take; ``None`` takes all. Damaged ones count.
        start: how many images to pass over first.
        part: the part of the images that ``start`` and ``limit`` count in; ``None`` for all.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: an argument is out of range, or no image is left.
    """

    #: What messages call such a place.
    kind: ClassVar[str]
    #: Folder where fingerprints are kept, so that who needs one again reads no image; ``None`` keeps none.
    fingerprints: Path | None = None

    def __init__(
        self,
        path: str | Path,
        size: int,
        on_bad_image: str = "error",
        name: str | None = None,
        limit: int | None = None,
        start: int = 0,
        part: SeededPart | None = None,
    ) -> None:
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"on_bad_image must be error or skip, not {on_bad_image!r}")
        if size < 1 or start < 0 or (limit is not None and limit < 1):
            raise ValueError(f"size and limit must be 1 or more, start 0 or more; got {size=}, {limit=}, {start=}")
        self.path = Path(path).expanduser()
        self.size = size
        self.name = name or self.path.resolve().name
        self.keys = self._choose_keys(start, limit, part)
        if on_bad_image == "skip":
            self.keys = self._leave_out_bad()

    @abstractmethod
    def _list_keys(self, stop: int | None) -> list[str]:
        """The first ``stop`` keys in their order, ``None`` for all; raises where there is none at all."""

    def list_all_keys(self) -> list[str]:
        """Keys of all images at the path: also of those that start, limit, part or their damage leave out."""
        return self._list_keys(None)

    @abstractmethod
    def _read(self, key: str) -> bytes:
        """The encoded image of a key."""

    def _list_files(self) -> Iterable[Path]:
        """The files that hold the images; none where that is not known."""
        return ()

    def _choose_keys(self, start: int, limit: int | None, part: SeededPart | None) -> list[str]:
        if part is None:
            found = self._list_keys(None if limit is None else start + limit)
        else:
            found = take_part(self._list_keys(None), part)
        if keys := found[start:][:limit]:
            return keys
        of_part = "" if part is None else f" for {part.split}"
        raise ValueError(
            f"{self.kind} {self.path} has {len(found)} images{of_part}, start={start} leaves none; lower start"
        )

    def _leave_out_bad(self) -> list[str]:
        good, bad = [], []
        for key in self.keys:
            try:
                self._load(key)
            except ValueError as error:
                log.debug("%s", error)
                bad.append(key)
            else:
                good.append(key)
        if not good:
            raise ValueError(f"none of the {len(bad)} images of {self.path} can be read; check the {self.kind}")
        if bad:
            named = ", ".join(map(printable, bad[:_NAMED])) + (", ..." if len(bad) > _NAMED else "")
            log.warning("left out %d of %d images of %s, unreadable: %s", len(bad), len(self), self.path, named)
        return good

    def _load(self, key: str) -> torch.Tensor:
        return load_image(self._read(key), self.size, self._describe(key))

    def _describe(self, key: str) -> str:
        return f"{printable(key)} of {self.kind} {self.path}"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.keys)

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``index``; ``labels`` is empty."""
        return ImageItem(self._load(self.keys[index]), torch.empty(0, dtype=torch.int64))

    def fingerprint(self) -> str:
        """Hex digits over the edge and, for every image in use, key, bytes and sha256 of the content.

        Reads each of them once, on the first call; with ``fingerprints`` only if no process has done so since size or
        times of a file changed. Others wait for the first that does; where it cannot be kept, each reads.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = None if self.fingerprints is None else self._describe_files()
        if self.fingerprints is None or state is None:
            return self._read_all()
        kept = self.fingerprints / state
        if kept.is_file():
            return kept.read_text()
        with ExitStack() as held:
            try:
                self.fingerprints.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold_alone(FileLock(f"{kept}.lock"), f"reading all images of {self.path}"))
            except OSError as error:  # others may own the folder
                log.debug("the fingerprint of %s is not kept: %s", self.path, error)
                return self._read_all()
            if kept.is_file():
                return kept.read_text()
            digest = self._read_all()
            if self._describe_files() == state:  # else they changed meanwhile
                write_atomically(kept, digest.encode())
            return digest

    def _describe_files(self) -> str | None:
        """Hex digits over the images in use and the size and times of their files; ``None`` without such."""
        place = f"{self.size} px of {self.path.resolve()}\n"
        digest, known = hashlib.sha256(place.encode(errors="surrogateescape")), False
        for path in self._list_files():
            stat, known = path.stat(), True
            # A copy may keep the time of modification, but not that of the change.
            digest.update(f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
        for key in self.keys:
            digest.update(f"{key}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:32] if known else None

    def _read_all(self) -> str:
        digest = hashlib.sha256(f"{self.size} px\n".encode())
        for key in self.keys:
            content = self._read(key)
            line = f"{key}\n{len(content)} {hashlib.sha256(content).hexdigest()}\n"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def printable(key: str) -> str:
    """A key for messages: bytes that are no text, which file names and LMDB keys may have, as escapes."""
    return key.encode(errors="surrogateescape").decode(errors="backslashreplace")
