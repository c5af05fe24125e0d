"""Where and in which precision a stage computes."""

import os

import torch
from omegaconf import DictConfig


def pick_device(cfg: DictConfig) -> torch.device:
    """The device that the trainer will use, for the stages before it.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if cfg.trainer.accelerator != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is gpu, but PyTorch sees no CUDA device here: take trainer=cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # each process of DDP has its own


def autocast_as(cfg: DictConfig) -> torch.autocast:
    """The trainer's precision for what runs outside it."""
    low = str(cfg.trainer.precision).startswith("bf16")
    return torch.autocast(pick_device(cfg).type, torch.bfloat16, enabled=low)
