"""SIGTERM, which a scheduler sends before it kills, ends a stage at once, and in order; its processes end together."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

#: What a shell says of a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM
#: In errors of a process whose peer has ended; gloo raises plain RuntimeErrors.
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
#: Seconds in which a process that failed says why, or one that was killed ends.
PATIENCE = 10.0


class Terminated(SystemExit):
    """SIGTERM came; where nobody catches it, the process ends with exit code 143.

    Args:
        note: how to go on, for the message.
    """

    def __init__(self, note: str = "") -> None:
        super().__init__(EXIT_CODE)
        self.note = note


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Raise, unless an earlier one is on its way out: a further signal would cut off what cleans up now.

    SIG_IGN would do for that too, but Python swallows what is raised within ``__del__``; then the next signal has to
    end the process.
    """
    error = sys.exception()
    while error is not None:
        if isinstance(error, Terminated):
            return
        error = error.__context__
    raise Terminated


def _listen() -> None:
    if threading.current_thread() is threading.main_thread():  # others may not
        signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def sigterm_ends() -> Iterator[None]:
    """Raise ``Terminated`` on SIGTERM, also where submitit, which would only note it, has a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    _listen()
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def ctrl_c_raises() -> Iterator[None]:
    """Raise Ctrl-C within a fit as such, of which Lightning makes a ``SystemExit``."""
    try:
        yield
    except Terminated:
        raise
    except SystemExit as stop:
        raise KeyboardInterrupt from stop


class EndOnSigterm(Callback):
    """Puts our handler of SIGTERM before Lightning's, which waits for the batch and, in DDP, for other processes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own just now."""
        _listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own just now."""
        _listen()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """At once: what Lightning does next on its way out may take time, or wait for the others."""
        _end_children(trainer, exception)


@contextmanager
def children_end(trainer: Trainer) -> Iterator[None]:
    """End the processes that Lightning started for a trainer when this one fails or is stopped, between fits as well.

    They may wait in a collective till its time is out, or fail for want of this one and bury its message.
    """
    try:
        yield
    except BaseException as error:
        _end_children(trainer, error)
        raise


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether an error of a collective (gloo's or NCCL's) says that another process ended: then that is the cause."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER)


def _end_children(trainer: Trainer, error: BaseException) -> None:
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    children = launcher.procs[:]
    launcher.procs.clear()  # Lightning's observer of this list would kill us too as soon as one has ended
    deadline = time.monotonic() + (PATIENCE if is_lost_peer(error) else 0)
    for child in children:
        with suppress(subprocess.TimeoutExpired):  # one that failed first is saying why
            child.wait(max(0, deadline - time.monotonic()))
    for child in children:
        child.kill()  # SIGTERM would not end a collective
        with suppress(subprocess.TimeoutExpired):
            child.wait(PATIENCE)
