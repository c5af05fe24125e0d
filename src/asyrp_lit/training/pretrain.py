"""The loop that all embedded networks are pretrained with: resumable, EMA, bfloat16."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from asyrp_lit.data.avatars.dataset import PortraitBatch, Portraits
from asyrp_lit.training.logs import make_csv_logger
from asyrp_lit.training.pretrain_diffusion import RampedEMA
from asyrp_lit.training.state import KeepState, check_fits

#: Optimiser steps; a state holds the network, its average and the optimiser's two moments.
STEPS_BETWEEN_STATES = 100


class KeptRecipe(Callback):
    """Writes the settings of the run into its checkpoints, as ``recipe``: the model card tells these and no others.

    Args:
        recipe: plain numbers, words, lists and dictionaries.
    """

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        self.recipe = dict(recipe)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning."""
        checkpoint["recipe"] = self.recipe


def make_pretrain_loaders(
    size: int, batch_size: int, num_train: int, num_val: int, cache: Path
) -> tuple[DataLoader[PortraitBatch], DataLoader[PortraitBatch]]:
    """Loaders of the train (shuffled, whole batches) and val portraits."""
    train = DataLoader(Portraits("train", num_train, size, cache), batch_size, shuffle=True, drop_last=True)
    val = DataLoader(Portraits("val", num_val, size, cache), batch_size)
    return train, val


def fit_network(
    module: LightningModule,
    loaders: tuple[DataLoader[PortraitBatch], DataLoader[PortraitBatch]],
    folder: Path,
    max_steps: int,
    val_check_interval: int,
    precision: str,
    ema_decay: float | None = None,
    resume: bool = True,
    accelerator: str = "auto",
    recipe: Mapping[str, Any] | None = None,
) -> Trainer:
    """Train until ``max_steps`` optimiser steps, from ``folder/last.ckpt`` when it is there.

    Args:
        module: what to train; afterwards it holds the averaged weights.
        loaders: train and val.
        folder: run folder for checkpoints and the CSV log.
        max_steps: optimiser steps in all, those before a resume included; a multiple of 100, since states are kept that
            often.
        val_check_interval: steps between validations.
        precision: Lightning's, for example ``bf16-mixed``.
        ema_decay: ``None`` keeps the last weights.
        resume: ``False`` starts anew and overwrites.
        accelerator: Lightning's.
        recipe: settings that are kept in the checkpoint, see ``KeptRecipe``.

    Raises:
        ValueError: ``last.ckpt`` is damaged or of another network.
    """
    last = folder / "last.ckpt"
    goes_on = resume and last.exists()
    if goes_on:
        check_fits(last, module)
    callbacks: list[Callback] = []
    if recipe is not None:
        callbacks.append(KeptRecipe(recipe))
    if ema_decay is not None:
        callbacks.append(RampedEMA(ema_decay))
    trainer = Trainer(
        default_root_dir=folder / "lightning",  # never made: under SLURM states are loaded from there unasked
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=val_check_interval,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=[*callbacks, KeepState(last, STEPS_BETWEEN_STATES)],
        enable_checkpointing=False,
        logger=make_csv_logger(folder),
        log_every_n_steps=20,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, *loaders, ckpt_path=last if goes_on else None, weights_only=True)
    return trainer
