"""Files that are whole or not there."""

import os
import secrets
from pathlib import Path


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
