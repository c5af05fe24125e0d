"""SIGTERM, which a scheduler sends before it kills: it ends a stage at once, and in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer

#: What a shell says of a process that SIGTERM ended.
EXIT_CODE = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """SIGTERM came; where nobody catches it, the process ends with exit code 143.

    Args:
        note: how to go on, for the message.
    """

    def __init__(self, note: str = "") -> None:
        super().__init__(EXIT_CODE)
        self.note = note


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut off what cleans up now
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


class EndOnSigterm(Callback):
    """Puts our handler of SIGTERM before Lightning's, which waits for the batch and, in DDP, for other processes."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own just now."""
        _listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own just now."""
        _listen()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the processes that Lightning started, as it does on Ctrl-C: they may hang in a collective."""
        launcher = trainer.strategy.launcher
        if isinstance(exception, Terminated) and launcher is not None:
            launcher.kill(signal.SIGKILL)
