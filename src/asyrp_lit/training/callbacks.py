"""Callbacks of training: what a run leaves in its folder for a person to look at."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from asyrp_lit.data.datamodule import LatentBatch
from asyrp_lit.editing.seeds import derive_seeds
from asyrp_lit.editing.strips import name_strength, sample_strengths
from asyrp_lit.plots.curves import draw_loss_curve
from asyrp_lit.plots.grid import draw_grid
from asyrp_lit.plots.save import save_figure
from asyrp_lit.shapes import Images
from asyrp_lit.training.asyrp import AsyrpModule


class PreviewGrid(Callback):
    """After every validation: source, reconstruction and edits of the first val images, as PNG and to W&B.

    Reconstruction and the edit at the judged strength are those of the validation; only other strengths are sampled,
    in each process those of its own rows.

    Args:
        folder: where ``grid.png`` goes.
        num_images: rows.
        strengths: columns after source and reconstruction.
        title: headline of the picture.
    """

    def __init__(self, folder: Path, num_images: int, strengths: tuple[float, ...], title: str) -> None:
        self.folder = folder
        self.num_images = num_images
        self.strengths = strengths
        self.title = title
        self._seen: list[tuple[LatentBatch, dict[str, Images]]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: LatentBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the first images."""
        if outputs and sum(len(seen.index) for seen, _ in self._seen) * trainer.world_size < self.num_images:
            self._seen.append((batch, outputs))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, on the first process only, what all of them have seen."""
        seen, self._seen = self._seen, []
        if trainer.sanity_checking or not seen:
            return
        assert isinstance(pl_module, AsyrpModule)
        columns = self._gather(pl_module, self._make_columns(pl_module, seen))
        if not trainer.is_global_zero:
            return
        notes = "  ".join(
            f"{name.removeprefix('val/')} {float(value):.3f}"
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        )
        path = save_figure(draw_grid(columns, self.title, notes or None), self.folder / "grid.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("preview", [str(path)])

    def _make_columns(
        self, module: AsyrpModule, seen: list[tuple[LatentBatch, dict[str, Images]]]
    ) -> dict[str, Tensor]:
        """This process's share of the rows, and as ``real`` which of them are no padding."""
        share = math.ceil(self.num_images / module.trainer.world_size)
        known = {name: torch.cat([images[name] for _, images in seen])[:share] for name in seen[0][1]}
        x_T = torch.cat([batch.x_T for batch, _ in seen])[:share]
        seeds = derive_seeds(known["source"], module.seed)
        others = tuple(s for s in self.strengths if name_strength(s) not in known)
        common = (module.model, x_T, module.grid, module.alphas_cumprod, module.direction, module.interval)
        with module.trainer.precision_plugin.forward_context():
            known |= sample_strengths(*common, others, seeds) if others else {}
        order = ["source", "reconstruction", *(name_strength(s) for s in self.strengths)]
        real = torch.cat([batch.is_real for batch, _ in seen])[:share]
        return {name: known[name].float() for name in order} | {"real": real}

    def _gather(self, module: AsyrpModule, columns: dict[str, Tensor]) -> dict[str, Images]:
        """The rows of all processes in the order of the store: these take turns with its images."""
        world_size, gathered = module.trainer.world_size, module.all_gather(columns)
        assert isinstance(gathered, dict)
        rows = {
            name: gathered[name].reshape(world_size, *own.shape).transpose(0, 1).flatten(0, 1).cpu()
            for name, own in columns.items()
        }
        real = rows.pop("real")
        return {name: images[real][: self.num_images] for name, images in rows.items()}


class LossCurve(Callback):
    """Keeps the loss of every batch and draws ``loss.png`` when training ends.

    Args:
        folder: where the picture goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[int] = []
        self.series: dict[str, list[float]] = {"train/loss": [], "train/clip": [], "train/l1": []}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the batch's means."""
        values = {name: float(trainer.callback_metrics.get(name, math.nan)) for name in self.series}
        self.steps.append(trainer.global_step)
        for name, value in values.items():
            self.series[name].append(value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what was seen."""
        if trainer.is_global_zero and self.steps:
            save_figure(draw_loss_curve(self.steps, self.series), self.folder / "loss.png")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw it now where the run was killed between its last batch and the end of training."""
        if not (self.folder / "loss.png").is_file():
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Survives a resume."""
        return {"steps": self.steps, "series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the curve so far."""
        self.steps, self.series = list(state_dict["steps"]), {k: list(v) for k, v in state_dict["series"].items()}
