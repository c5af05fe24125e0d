"""Where and in which precision a stage computes."""

import os
from typing import NamedTuple

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig, ListConfig, OmegaConf

from asyrp_lit.training.processes import is_task_of_slurm


def pick_device(cfg: DictConfig) -> torch.device:
    """The device that the trainer will use, for the stages before it.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if cfg.trainer.accelerator != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is gpu, but PyTorch sees no CUDA device here: take trainer=cpu")
    return torch.device("cuda", find_rank().local)  # each process of DDP has its own


#: What networks are computed in, as Lightning names it; h and directions are float32 in all of them.
PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16")


def check_precision(cfg: DictConfig) -> None:
    """See that the trainer computes in what inversion and judging compute in too.

    Raises:
        ValueError: it does not.
    """
    if str(cfg.trainer.precision) not in PRECISIONS:
        raise ValueError(f"trainer.precision must be 32-true or bf16-mixed, got {cfg.trainer.precision!r}")


def get_precision(cfg: DictConfig) -> str:
    """The trainer's precision as stores of latents name it: ``bf16`` or ``32-true``."""
    return "bf16" if str(cfg.trainer.precision).startswith("bf16") else "32-true"


def autocast_as(cfg: DictConfig) -> torch.autocast:
    """The trainer's precision for what runs outside it."""
    return torch.autocast(pick_device(cfg).type, torch.bfloat16, enabled=get_precision(cfg) == "bf16")


class Rank(NamedTuple):
    """This process among those that were started together."""

    number: int = 0
    world_size: int = 1
    local: int = 0


def find_rank() -> Rank:
    """Which process this is, of those that torchrun, srun or Lightning started; ``Rank()`` where it is alone."""
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
        return Rank(environment.global_rank(), environment.world_size(), environment.local_rank())
    if is_task_of_slurm():  # the environment is not asked: it takes --ntasks-per-node alone, as training does
        return Rank(*(int(os.environ[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "LOCALID")))
    local = int(os.environ.get("LOCAL_RANK", "0"))  # Lightning's own processes, on one machine
    return Rank(local, int(os.environ.get("WORLD_SIZE", local + 1)), local)


def count_processes(cfg: DictConfig) -> int:
    """How many processes train together: those that were started so, or that Lightning will start."""
    return max(find_rank().world_size, _count_wanted(cfg))


def check_processes(cfg: DictConfig) -> None:
    """See that processes which were started together are to train together.

    Raises:
        ValueError: the trainer is for one process, and each would train on all images.
    """
    started = find_rank().world_size
    if started > 1 and _count_wanted(cfg) == 1:
        raise ValueError(
            f"torchrun or SLURM started {started} processes, but the trainer is for one, so each would train on all "
            "images, in one folder: start one process (in a shell that srun started for typing, first export "
            "SLURM_JOB_NAME=bash), or give trainer=ddp (on CPUs trainer.devices=N +trainer.strategy=ddp "
            "+trainer.use_distributed_sampler=false); several machines: +trainer.num_nodes="
        )


def _count_wanted(cfg: DictConfig) -> int:
    devices = cfg.trainer.devices
    if devices in (-1, "-1", "auto"):
        own = torch.cuda.device_count() if cfg.trainer.accelerator == "gpu" else 1
    elif isinstance(devices, ListConfig):
        own = len(devices)
    else:
        own = int(devices) if str(devices).isdecimal() else str(devices).strip(",").count(",") + 1  # "0,1"
    return own * int(OmegaConf.select(cfg, "trainer.num_nodes", default=1))
