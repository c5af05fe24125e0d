"""Files that are whole or not there, and made by one process at a time."""

import errno
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

#: What the system says when a disk takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: Seconds after which a process that waits for another says so again.
_REMINDER = 300.0


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that it is whole or not there, whatever kills this process.

    What earlier, killed writers of the same file left behind is removed. When two processes write the same bytes at
    once, the second to finish finds the work done.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _move(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except FileNotFoundError:
        # A writer of the same file was quicker and took ours for a leftover.
        if not path.exists():
            raise


@contextmanager
def hold_alone(lock: FileLock, doing: str) -> Iterator[None]:
    """Hold a lock between processes. One that has to wait says so, at once and every five minutes.

    The system gives the lock of a killed process free as soon as its workers have ended too, which takes seconds.

    Args:
        lock: on a file system that both processes see.
        doing: what the other process does meanwhile, for the message.
    """
    patience = 0.0
    while True:
        try:
            lock.acquire(timeout=patience)
            break
        except Timeout:
            log.info("waiting for another process that is %s (it holds %s)", doing, lock.lock_file)
            patience = _REMINDER
    try:
        yield
    finally:
        lock.release()
