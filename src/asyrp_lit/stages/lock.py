"""One process at a time in a run folder."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from asyrp_lit.stages.device import find_rank
from asyrp_lit.stages.guard import run_folder
from asyrp_lit.stages.settings import restore_hydra

log = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Seconds that a lock is waited for: workers of a process that was killed may hold it for some.
PATIENCE = 10.0


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.resolve() / ".lock", is_singleton=True)  # may be held twice by this process


def is_busy(folder: Path) -> bool:
    """Whether another process is at work in a run folder and stays so for ``PATIENCE`` seconds."""
    try:
        with _lock_of(folder).acquire(timeout=PATIENCE):
            return False
    except Timeout:
        return True


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder alone, until the process ends however it ends. Of the processes of one run the first does.

    Raises:
        BlockingIOError: another process is at work in it.
    """
    if find_rank().number:
        yield
        return
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        restore_hydra(folder)
        raise BlockingIOError(
            f"another process is at work in {folder}, which goes on: wait for its end, or choose another folder with "
            "hydra.run.dir=FOLDER"
        ) from error
    try:
        yield
    finally:
        lock.release()


def alone_in_folder(stage: Callable[[DictConfig], Result]) -> Callable[[DictConfig], Result]:
    """Hold the run folder while a stage runs; the ``error.log`` of an earlier start there goes.

    Raises:
        BlockingIOError: another process is at work in it.
    """

    @wraps(stage)
    def alone(cfg: DictConfig) -> Result:
        with hold_folder(run_folder()):
            if find_rank().number == 0:
                (run_folder() / "error.log").unlink(missing_ok=True)
            return stage(cfg)

    return alone


def in_first_process(stage: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Run a stage that does not share its work in one of the processes that were started together; the others end."""

    @wraps(stage)
    def alone(cfg: DictConfig) -> None:
        rank = find_rank()
        if rank.number:
            log.warning("process %d of %d ends: the first does all of this", rank.number + 1, rank.world_size)
            return
        stage(cfg)

    return alone
