"""Images in training, each at a timestep of its own: what an optimiser step sees (``method.stagger``)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from asyrp_lit.data.latent_loader import LatentBatch
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Coef, Embeddings, Images, PerSample, Table, Timesteps

Stages = Int[Tensor, " batch"]


class Slots(NamedTuple):
    """One image per slot on its way down the trajectory.

    Attributes:
        x: (B, 3, S, S) states of the edited trajectories.
        x_source: (B, 3, S, S) states of the unedited ones; unused where P_t is kept.
        source: (B, D) CLIP embeddings of x_0.
        index: (B,) int64 place in the store.
        strength: (B,) strengths of the edits.
        pred_x0: (B, K, 3, S, S) P_t kept in the store; ``None`` if it keeps none.
    """

    x: Images
    x_source: Images
    source: Embeddings
    index: Stages  # type: ignore[assignment]
    strength: PerSample
    pred_x0: Tensor | None

    @classmethod
    def start(cls, batch: LatentBatch, source: Embeddings, strength: PerSample) -> "Slots":
        """A batch at x_T."""
        return cls(batch.x_T, batch.x_T, source, batch.index, strength, batch.pred_x0)

    def refill(self, fresh: "Slots", mask: Tensor) -> "Slots":
        """The same slots, with those of ``fresh`` where the mask (B,) says so."""
        return Slots(
            _choose(mask, fresh.x, self.x),
            _choose(mask, fresh.x_source, self.x_source),
            _choose(mask, fresh.source, self.source),
            _choose(mask, fresh.index, self.index),
            _choose(mask, fresh.strength, self.strength),
            None if fresh.pred_x0 is None or self.pred_x0 is None else _choose(mask, fresh.pred_x0, self.pred_x0),
        )


class UpdateBatch(NamedTuple):
    """What one optimiser step is taken on.

    Attributes:
        x: (B, 3, S, S) states.
        t: (B,) their timesteps.
        alpha_bar_t, alpha_bar_prev: (B, 1, 1, 1) there and at the next.
        pred_x0: (B, 3, S, S) P_t of the unedited trajectories.
        source: (B, D) CLIP embeddings of x_0.
        strength: (B, 1, 1, 1) strengths of the edits.
    """

    x: Images
    t: Timesteps
    alpha_bar_t: Coef
    alpha_bar_prev: Coef
    pred_x0: Images
    source: Embeddings
    strength: Coef

    def split(self, size: int | None) -> "list[UpdateBatch]":
        """In parts of at most so many images; ``None`` for one part."""
        rows = [slice(i, i + size) for i in range(0, len(self.x), size)] if size else [slice(None)]
        return [UpdateBatch(*(value[part] for value in self)) for part in rows]


def _choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)


def choose_offsets(batch_size: int, num_steps: int, rank: int = 0, world_size: int = 1) -> Stages:
    """Stage of each slot of this process when training begins: spread evenly over the joint batch of all processes.

    Args:
        batch_size: slots of each process; slot i is number ``i * world_size + rank`` of the joint batch.
        num_steps: stages, the training timesteps from the noisiest down.
        rank, world_size: of the process.
    """
    number = torch.arange(batch_size) * world_size + rank
    return number * num_steps // (batch_size * world_size)


def gather_alphas(table: Table, t: Tensor, t_prev: Tensor) -> tuple[Coef, Coef]:
    """alpha-bar at each sample's t and at where its step goes."""
    return gather_alpha_bar(table, t), gather_alpha_bar(table, t_prev)


@torch.no_grad()
def advance_unedited(
    slots: Slots, stages: Stages, t: Tensor, t_prev: Tensor, alphas_cumprod: Table, model: HSpaceUNet
) -> Slots:
    """Slots at their stages on the unedited trajectory, from x_T.

    Where P_t is kept, eps follows from it and no pass of the network is needed.

    Args:
        slots: at x_T.
        stages: how many steps each goes.
        t, t_prev: (T,) training timesteps from the noisiest down, and where their steps go.
        alphas_cumprod: the schedule's table.
        model: for eps where no P_t is kept.
    """
    x = slots.x
    for k in range(int(stages.max())):
        steps = t[k].expand(len(x))
        alpha_bar_t, alpha_bar_prev = gather_alphas(alphas_cumprod, steps, t_prev[k].expand(len(x)))
        if slots.pred_x0 is None:
            eps = model(x, steps).float()
        else:
            eps = (x - alpha_bar_t.sqrt() * slots.pred_x0[:, k]) / (1 - alpha_bar_t).sqrt()
        moved = step_ddim(x, eps, alpha_bar_t, alpha_bar_prev)
        x = torch.where((stages > k).view(-1, 1, 1, 1), moved, x)
    return slots._replace(x=x, x_source=x)


def descend_to_start(slots: Slots, lead: Sequence[tuple[int, int]], alphas_cumprod: Table, model: HSpaceUNet) -> Slots:
    """Slots at t_start instead of x_T, their kept P_t from there on.

    Args:
        slots: at x_T.
        lead: pairs (t, t_prev) above t_start, from the noisiest down.
        alphas_cumprod: the schedule's table.
        model: for eps where no P_t is kept.
    """
    if not lead:
        return slots
    t, t_prev = torch.tensor(lead, device=slots.x.device).unbind(dim=1)
    stages = torch.full((len(slots.x),), len(lead), device=slots.x.device)
    slots = advance_unedited(slots, stages, t, t_prev, alphas_cumprod, model)
    return slots._replace(pred_x0=None if slots.pred_x0 is None else slots.pred_x0[:, len(lead) :])


@torch.no_grad()
def follow_source(
    slots: Slots, stages: Stages, steps: Tensor, alphas: tuple[Coef, Coef], model: HSpaceUNet
) -> tuple[Images, Images]:
    """P_t of the unedited trajectories at each slot's stage, and their next states, which kept P_t make needless."""
    if slots.pred_x0 is not None:
        return slots.pred_x0[torch.arange(len(stages), device=stages.device), stages], slots.x_source
    eps = model(slots.x_source, steps).float()
    return compute_pred_x0(slots.x_source, eps, alphas[0]), step_ddim(slots.x_source, eps, *alphas)
