"""Where the weights of a base model come from: a path of the user's, the cache folder, a download."""

import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from asyrp_lit.files import FULL
from asyrp_lit.models.fetch import FETCH_ERRORS, fetch_folder, fetch_place

log = logging.getLogger(__name__)

#: What this machine's disk answers.
_LOCAL = (*FULL, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class WeightFile:
    """A checkpoint that is one file.

    Attributes:
        file: its name, also in the cache folder.
        places: where it can be fetched, tried in order: URLs or ``hf://owner/repository[@revision]/file``.
        page: where a person finds it.
        sha256: in hex digits; ``None`` where none is known.
    """

    file: str
    places: Sequence[str]
    page: str
    sha256: str | None = None

    def expect_at(self, cache: Path) -> Path:
        """Where it lies in the cache folder."""
        return cache / "weights" / self.file

    def look_up(self, cache: Path) -> Path | None:
        """Its path, if it is there."""
        path = self.expect_at(cache)
        return path if path.is_file() else None

    def fetch(self, name: str, cache: Path) -> Path:
        """Its path, fetched from the first place that has it; processes wait for one another.

        Raises:
            FileNotFoundError: no place has it; the message says where it can be had and where to put it.
            OSError: the disk is full.
        """
        target = self.expect_at(cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        failures = []
        with FileLock(f"{target}.lock"):
            if target.is_file():  # another process was faster
                return target
            for place in self.places:
                try:
                    fetch_place(place, target, self.sha256)
                except FETCH_ERRORS as error:
                    _raise_if_local(error, f"base model {name}: {target} cannot be written")
                    failures.append(f"{place} ({_shorten(error)})")
                else:
                    log.info("base model %s: fetched %s", name, target)
                    return target
        tried = f"; tried {'; '.join(failures)}" if failures else ""
        raise FileNotFoundError(
            f"base model {name} needs {self.file}, which is not at {target} and cannot be fetched{tried}. Get it by "
            f"hand ({self.page}) and put it there, or name its place with model.weights=/path/to/{self.file}. "
            "The embedded model=ddpmpp_avatars needs no file"
        )


@dataclass(frozen=True)
class HubFolder:
    """A diffusers folder on the Hugging Face hub, kept in the hub library's own cache.

    Attributes:
        repository: ``owner/name``.
        revision: commit; a branch or tag may mean other weights tomorrow.
    """

    repository: str
    revision: str

    def expect_at(self, cache: Path) -> Path:
        """Where a copy made by hand may lie in the cache folder."""
        return cache / "weights" / self.repository.replace("/", "--")

    def look_up(self, cache: Path) -> Path | None:
        """The folder, if it is there or in the hub library's cache."""
        path = self.expect_at(cache)
        if path.is_dir():
            return path
        try:
            return fetch_folder(self.repository, self.revision, only_local=True)
        except FETCH_ERRORS:
            return None

    def fetch(self, name: str, cache: Path) -> Path:
        """The folder, fetched.

        Raises:
            FileNotFoundError: the hub cannot be reached or has no such revision; the message says what to do.
            OSError: the disk is full.
        """
        try:
            folder = fetch_folder(self.repository, self.revision)
            log.info("base model %s: fetched %s", name, folder)
            return folder
        except FETCH_ERRORS as error:
            _raise_if_local(error, f"base model {name}: {self.repository} cannot be written to the hub library's cache")
            raise FileNotFoundError(
                f"base model {name} needs {self.repository} (revision {self.revision}) of the Hugging Face hub, which "
                f"is not in its cache and cannot be fetched ({_shorten(error)}). Put config.json and the weights of "
                f"https://huggingface.co/{self.repository} into {self.expect_at(cache)}, or name their folder with "
                "model.weights=/path/to/folder. The embedded model=ddpmpp_avatars needs no file"
            ) from error


WeightSource = WeightFile | HubFolder


def find_weights(name: str, weights: str | Path | None, source: WeightSource | None, cache: str | Path) -> Path:
    """The file or folder of a base model's weights: the one named, else the cached one, else fetched.

    Args:
        name: of the base model, for messages.
        weights: ``model.weights``; ``None`` to look in the cache and to fetch.
        source: what to look for; ``None`` where only ``weights`` can tell.
        cache: ``paths.cache``.

    Raises:
        FileNotFoundError: it is not there; the message says what to do.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"base model {name}: model.weights={weights} does not exist")
        return path
    if source is None:
        raise FileNotFoundError(f"base model {name} needs model.weights=/path of a checkpoint or a diffusers folder")
    cache = Path(cache).expanduser()
    return source.look_up(cache) or source.fetch(name, cache)


def _raise_if_local(error: BaseException, problem: str) -> None:
    """A full or read-only disk is no fault of a server's, so no other place would help.

    Raises:
        OSError: it is one; says the problem and the reason.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _LOCAL:
            raise OSError(cause.errno, f"{problem}: {cause.strerror}") from error
        cause = cause.__cause__ or cause.__context__


def _shorten(error: BaseException) -> str:
    """One line on what went wrong in the end: libraries wrap it in several layers."""
    root = error
    while inner := root.__cause__ or root.__context__:
        root = inner
    return " ".join(str(root).split())[:160] or type(root).__name__
