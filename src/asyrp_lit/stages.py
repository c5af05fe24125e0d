"""The stages behind the scripts: the only file that sees ``cfg``."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from asyrp_lit.training.pretrain import fit_network, make_pretrain_loaders


def pretrain(cfg: DictConfig) -> None:
    """Train a network of the embedded avatar domain; a rerun resumes."""
    seed_everything(cfg.seed)
    run = Path(HydraConfig.get().runtime.output_dir)
    loaders = make_pretrain_loaders(**cfg.network.data, cache=Path(cfg.paths.cache) / "avatars")
    module = instantiate(cfg.network.module)
    fit_network(module, loaders, run, **cfg.network.fit, ema_decay=cfg.network.ema_decay, resume=cfg.resume)
    print(run, torch.__version__)
