"""Processes that read ahead of training: how much fits between them and it, and how they end."""

import logging
import os
import pickle
import shutil
import signal
from pathlib import Path

log = logging.getLogger(__name__)

#: Where processes hand tensors over on Linux; in a container it has 64 MB unless asked for more.
SHARED_MEMORY = Path("/dev/shm")
#: The share of what is free there that one loader takes.
_SHARE = 0.5


def fit_read_ahead(num_workers: int, batches_ahead: int, batch_bytes: int, world_size: int = 1) -> tuple[int, int]:
    """Reading processes, and batches that each may be ahead, for which the shared memory has room.

    A process that finds none loses its batch, and training would wait for it for ever.

    Args:
        num_workers, batches_ahead: as many as are wanted.
        batch_bytes: of a batch as it is handed over.
        world_size: processes that read so at the same time, and may be on one machine.

    Returns:
        No more than what is wanted; no process where not even two batches fit, one being in use.
    """
    if not num_workers or not SHARED_MEMORY.is_dir():
        return num_workers, batches_ahead
    room = int(shutil.disk_usage(SHARED_MEMORY).free * _SHARE) // (world_size * batch_bytes) - 1
    workers = min(num_workers, max(room, 0))
    if workers < num_workers:
        log.warning(
            "%s has room for %d batches a process of %.1f MiB: %d reading processes instead of %d; give a "
            "container more (docker run --shm-size=1g), or take smaller batches",
            *(SHARED_MEMORY, room + 1, batch_bytes / 2**20, workers, num_workers),
        )
    return workers, min(batches_ahead, room // workers) if workers else 0


def hand_over(error: Exception) -> Exception:
    """An error that takes the place of a batch, for a DataLoader would make a traceback of its message.

    Raises:
        Exception: the error itself, where it cannot be sent to another process, which would wait for it for ever.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        raise error from None
    return error


def end_on_sigterm(worker: int) -> None:
    """For the ``worker_init_fn`` of a DataLoader: SIGTERM, which schedulers send to all processes, ends it with 0.

    Ended by the signal it would make torch raise an error in the process that has the loader, over its own way to end.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
