"""Reading of LMDB files: opened read-only, once a process, and refused with a message where they cannot be."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

FILE = "data.mdb"
#: Folder -> what was opened there and by which process. LMDB opens a folder once a process only, and what was opened
#: before a fork is not to be used after it.
_opened: dict[Path, tuple[tuple[int, ...], lmdb.Environment]] = {}
#: Names of what a folder holds that a message spells out.
_NAMED = 5


def is_lmdb(path: Path) -> bool:
    """Whether a path is that of an LMDB: a folder with ``data.mdb``, or that file."""
    return (path / FILE).exists() or (path.name == FILE and path.exists())


@contextmanager
def read_lmdb(path: Path) -> Iterator[lmdb.Transaction]:
    """A read-only transaction on an LMDB; takes no lock, so that the disk may be read-only and readers many.

    Args:
        path: the folder of ``data.mdb``, or that file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not an LMDB, truncated or damaged.
    """
    folder = (path.parent if path.name == FILE else path).resolve()
    try:
        with _open(folder).begin() as transaction:
            yield transaction
    except lmdb.Error as error:
        raise ValueError(f"{folder / FILE} is damaged ({error}): copy or download it again") from error


def _open(folder: Path) -> lmdb.Environment:
    """The environment of a folder in this process."""
    file = folder / FILE
    if not folder.is_dir():
        raise FileNotFoundError(f"LMDB {folder} does not exist; give the folder that has the file {FILE}")
    if not file.is_file():
        raise FileNotFoundError(f"{folder} is no LMDB: it has no file {FILE} but {_list_content(folder)}")
    stat = file.stat()
    identity = os.getpid(), stat.st_ino, stat.st_size, stat.st_mtime_ns
    known, environment = _opened.get(folder, (None, None))
    if environment is not None and known == identity:
        return environment
    if environment is not None:
        environment.close()  # of the parent process, or of a file that was replaced
        del _opened[folder]
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f"{file} cannot be opened as an LMDB ({error}); it has {stat.st_size} bytes") from error
    _check_length(file, environment, stat.st_size)
    _opened[folder] = identity, environment
    return environment


def _check_length(file: Path, environment: lmdb.Environment, found: int) -> None:
    """A read beyond the end of the file would kill the process."""
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if found < expected:
        environment.close()
        raise ValueError(f"{file} is truncated: it has {found} of {expected} bytes; copy or download it again")


def _list_content(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "") or "nothing"
