"""SIGUSR1, with which SLURM says that a job's time runs out (``--signal=USR1@60``): the job is queued again."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import call
from types import FrameType

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from asyrp_lit.training.processes import is_task_of_slurm

log = logging.getLogger(__name__)


@contextmanager
def requeues_on_signal() -> Iterator[None]:
    """Queue this job of SLURM again on SIGUSR1, and go on; elsewhere, and where a handler is set already, do nothing.

    Lightning leaves a signal that has a handler alone. Its own would also save the state in the middle of a batch and
    load that in every later ``fit`` or ``validate`` that names no checkpoint, over weights that are further.
    """
    found = signal.getsignal(signal.SIGUSR1)
    of_slurm = is_task_of_slurm() and not TorchElasticEnvironment.detect()
    if not of_slurm or found != signal.SIG_DFL or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def queue_again(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner and SLURMEnvironment().global_rank() == 0:  # not in forked workers of a loader
            _requeue(_find_job())

    signal.signal(signal.SIGUSR1, queue_again)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, found)


def _find_job() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    try:
        code = call(["scontrol", "requeue", job])
    except OSError as error:
        log.error("job %s is not queued again, submit it anew: scontrol cannot be run (%s)", job, error)
        return
    if code:
        log.error("job %s is not queued again, submit it anew: scontrol ended with code %d", job, code)
    else:
        log.info("job %s is queued again", job)
