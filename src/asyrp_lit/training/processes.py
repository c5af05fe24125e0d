"""Which processes train together, where SLURM is about."""

import os
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment


def is_task_of_slurm() -> bool:
    """Whether srun or sbatch started this process; a shell of salloc has the number of tasks, and is none."""
    return SLURMEnvironment.detect() and "SLURM_PROCID" in os.environ


def choose_plugins() -> list[Any]:
    """What a Trainer needs to be told: in a shell of salloc it would take itself for a task, and ask for its number."""
    return [LightningEnvironment()] if SLURMEnvironment.detect() and not is_task_of_slurm() else []
