"""The end of a job whose sweep is gone."""

import multiprocessing
import os
import signal
import threading
import time
from functools import cache

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

#: Variable with the sweep's folder, for a job that is a command of its own.
SWEEP = "ASYRP_LIT_SWEEP"


def end_with_sweep() -> None:
    """Have SIGTERM end a job's process as soon as the sweep that started it is gone, killed for instance.

    That is a job that is a command of its own, or a worker of joblib. Those of submitit and ray outlive their sweep.
    """
    sweep = multiprocessing.parent_process()  # of a worker of joblib only
    if SWEEP in os.environ:
        _end_with(os.getppid())
    elif sweep is not None and sweep.pid is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
        _end_with(sweep.pid)


@cache
def _end_with(parent: int) -> None:
    """Watch a parent, once a process, and end with it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        while True:  # joblib takes what the first raises for a result, and goes on to the next job
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=watch, daemon=True).start()
