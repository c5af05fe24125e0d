"""What a checkpoint says of images that are on their way down when it is saved."""

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.latent_loader import LatentDataset
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.editing.sample import descend
from asyrp_lit.training.slots import Slots

log = logging.getLogger(__name__)


class KeepsSlots(LightningModule):
    """A module whose images on their way down a time grid survive a resume, in every process.

    Args:
        grid: ascending timesteps of the generative process.
        interval: t_edit, t_boost and t_start.
    """

    def __init__(self, grid: tuple[int, ...], interval: Interval) -> None:
        super().__init__()
        self.grid = grid
        self.interval = interval
        self._slots: Slots | None = None
        self._saved_slots: dict[str, Tensor] | None = None
        self._saved_images: str | None = None  # fingerprint of the images that their indices are of
        self._saved_follow_source = False  # whether their unedited states moved along, as no P_t was kept

    @property
    def lead_steps(self) -> list[tuple[int, int]]:
        """Pairs (t, t_prev) with t > t_start, which are not edited; a store may keep their P_t too."""
        return [(t, t_prev) for t, t_prev in descend(self.grid) if t > self.interval.t_start]

    @property
    def train_steps(self) -> list[tuple[int, int]]:
        """Pairs (t, t_prev) of the editing interval, from the noisiest down."""
        return [(t, t_prev) for t, t_prev in descend(self.grid) if in_editing_phase(t, self.interval)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the batch size, and the images on their way in all processes; their P_t are in the store."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, LatentsDataModule):
            checkpoint["batch_size"] = data.batch_sizes["train"]
        if self._slots is None:
            return
        checkpoint["slots"] = {}
        for name, value in zip(Slots._fields[:-1], self._slots[:-1], strict=True):
            gathered = self.all_gather(value)
            assert isinstance(value, Tensor)
            assert isinstance(gathered, Tensor)
            checkpoint["slots"][name] = gathered.reshape(self.trainer.world_size, *value.shape).cpu()
        if isinstance(data, LatentsDataModule):
            checkpoint["slots_images"] = data.stores["train"].key.source_fingerprint
        checkpoint["slots_follow_source"] = self._slots.pred_x0 is None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the images on their way until the store is open."""
        self._saved_slots = checkpoint.get("slots")
        self._saved_images = checkpoint.get("slots_images")
        self._saved_follow_source = checkpoint.get("slots_follow_source", False)

    def on_train_start(self) -> None:
        """Put the images on their way back, each into its place of the joint batch.

        Another size of it has new ones; so have other images, and a store without the P_t that stood for x_source.
        """
        saved, self._saved_slots = self._saved_slots, None
        data, rank, world_size = (
            getattr(self.trainer, "datamodule", None),
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        if saved is None or not isinstance(data, LatentsDataModule):
            return
        joint = {name: value.transpose(0, 1).flatten(0, 1) for name, value in saved.items()}
        if len(joint["x"]) != data.batch_sizes["train"] * world_size:
            return
        store = data.stores["train"]
        if self._saved_images not in (None, store.key.source_fingerprint):
            log.warning("the train images are others than when the run stopped: those on their way begin anew")
            return
        if not store.key.pred_x0_steps and not self._saved_follow_source:
            log.warning("the run stopped with P_t kept, which the store has no longer: images on their way begin anew")
            return
        own = {name: value[rank::world_size].to(self.device) for name, value in joint.items()}
        own.setdefault("strength", torch.ones(len(own["x"]), device=self.device))  # before there were others than 1
        pred_x0 = LatentDataset(store)[own["index"].tolist()].pred_x0
        kept = None if pred_x0 is None else pred_x0[:, len(self.lead_steps) :].to(self.device)
        self._slots = Slots(**own, pred_x0=kept)
