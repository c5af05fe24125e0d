"""Processes that are started together: the name that they have in common."""

import os
from datetime import datetime

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from asyrp_lit.stages.device import find_rank


def name_start(pattern: str) -> str:
    """The time of this start; of processes that were started together one name for all, for one run folder.

    Under torchrun it is the time of the first, kept in the store of torchrun itself; srun's tasks, which may start and
    end without each other, have the number of their job and step, also when the job is queued again.
    """
    now = datetime.now().strftime(pattern)
    if find_rank().world_size == 1:
        return now
    if TorchElasticEnvironment.detect() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        return store.compare_set(f"asyrp_lit/start/{pattern}", "", now).decode()  # set where it is empty, then read
    if "SLURM_STEP_ID" in os.environ:
        return f"job-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return now
