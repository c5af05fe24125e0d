"""The loop that all embedded networks are pretrained with: resumable, EMA, bfloat16."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Sampler

from asyrp_lit.data.avatars.dataset import PortraitBatch, Portraits
from asyrp_lit.editing.seeds import derive_seed
from asyrp_lit.training.logs import make_csv_logger
from asyrp_lit.training.pretrain_diffusion import RampedEMA
from asyrp_lit.training.processes import choose_plugins
from asyrp_lit.training.state import KeepState, check_fits
from asyrp_lit.training.terminate import ctrl_c_raises

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


class EndlessOrder(Sampler[int]):
    """Indices without end, all of them in each epoch, in an order that follows from seed and epoch.

    Args:
        num_images: how many there are.
        seed: of the order.
    """

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        #: How many indices the next iteration passes over.
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        first, place = divmod(self.start, self.num_images)
        for epoch in count(first):
            generator = torch.Generator().manual_seed(derive_seed(f"epoch {epoch}".encode(), self.seed))
            yield from torch.randperm(self.num_images, generator=generator)[place:].tolist()
            place = 0


class SeededSteps(Callback):
    """A step's images and random numbers follow from the seed and its number, wherever the run was stopped before.

    Args:
        order: of the training images; its seed is that of the random numbers too.
        batch_size: images per step.
    """

    def __init__(self, order: EndlessOrder, batch_size: int) -> None:
        self.order = order
        self.batch_size = batch_size

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Pass over the images of the steps that were taken."""
        self.order.start = checkpoint["global_step"] * self.batch_size

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed noise, timesteps, augmentation and dropout."""
        torch.manual_seed(derive_seed(f"step {trainer.global_step}".encode(), self.order.seed))


def make_pretrain_loaders(
    size: int, batch_size: int, num_train: int, num_val: int, cache: Path, seed: int
) -> tuple[DataLoader[PortraitBatch], DataLoader[PortraitBatch]]:
    """Loaders of the train (shuffled by the seed, without end) and val portraits."""
    train = DataLoader(Portraits("train", num_train, size, cache), batch_size, sampler=EndlessOrder(num_train, seed))
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

    A run that was stopped ends with the weights of one that was not, bit by bit, if seed and settings are the same.

    Args:
        module: what to train; afterwards it holds the averaged weights.
        loaders: train and val, of ``make_pretrain_loaders``.
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
    order, batch_size = loaders[0].sampler, loaders[0].batch_size
    assert isinstance(order, EndlessOrder)
    assert batch_size is not None
    callbacks: list[Callback] = [SeededSteps(order, batch_size)]
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
        plugins=choose_plugins(),
    )
    with ctrl_c_raises():
        trainer.fit(module, *loaders, ckpt_path=last if goes_on else None, weights_only=True)
    return trainer
