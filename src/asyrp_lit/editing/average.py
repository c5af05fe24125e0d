"""delta_h_mean and delta_h_global: what f_t proposes, averaged over images and over timesteps (Asyrp, section 5.3)."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.direction import Direction, DirectionInfo, get_space
from asyrp_lit.hspace.free_delta import GlobalDelta, PerTimestepDelta
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import BottleneckH, Table, TimeEmbedding, Timesteps


def check_averaged(direction: Direction) -> None:
    """See that a direction can be averaged.

    Raises:
        ValueError: it is not in h-space.
    """
    if (space := get_space(direction)) != "h":
        raise ValueError(
            f"only directions in h-space are averaged, this one is in {space}-space: delta_h means the same for every "
            f"image, a change of {'eps' if space == 'eps' else 'x_t'} does not"
        )


class _Recorder:
    """A direction that remembers the sum of what it proposed at each t."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.sums: dict[int, Tensor] = {}

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        delta_h = self.direction(h, temb, t)
        step = int(t[0])
        self.sums[step] = self.sums.get(step, torch.zeros_like(delta_h[0])) + delta_h.sum(dim=0)
        return delta_h


@torch.inference_mode()
def average_direction(
    model: HSpaceUNet,
    batches: Iterable[Tensor],
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction,
    interval: Interval,
) -> PerTimestepDelta:
    """delta_h_mean: the mean over images of what a direction proposes on their edited trajectories, at each timestep.

    Costs the steps down to t_edit only.

    Args:
        model: the frozen network.
        batches: x_T of the images, (B, 3, S, S) with any B each.
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table, on the latents' device.
        direction: in h-space.
        interval: where it edits.

    Raises:
        ValueError: there is no image, no timestep in the interval, or the direction is not in h-space.
    """
    check_averaged(direction)
    recorder, num_images = _Recorder(direction), 0
    needed = tuple(t for t in grid if t >= interval.t_edit)
    for x_T in batches:
        if needed:
            sample_images(model, x_T, needed, alphas_cumprod, recorder, interval._replace(t_boost=0))
        num_images += len(x_T)
    timesteps = [t for t in grid if in_editing_phase(t, interval)]
    if not num_images or not timesteps:
        raise ValueError(f"nothing to average: {num_images} images, {len(timesteps)} timesteps in the interval")
    mean = torch.stack([recorder.sums[t] / num_images for t in timesteps]).cpu()
    averaged = PerTimestepDelta(timesteps, mean.shape[1], mean.shape[2])
    averaged.load_state_dict({"timesteps": torch.tensor(timesteps), "delta_h": mean.clone()})
    return averaged.requires_grad_(False)


def average_timesteps(direction: PerTimestepDelta) -> GlobalDelta:
    """delta_h_global: one delta_h for all timesteps, the mean of a direction's."""
    mean = direction.delta_h.detach().mean(dim=0, keepdim=True)
    averaged = GlobalDelta(mean.shape[1], mean.shape[2])
    averaged.load_state_dict({"delta_h": mean})
    return averaged.requires_grad_(False)


def describe_average(info: DirectionInfo, averaged: PerTimestepDelta | GlobalDelta) -> DirectionInfo:
    """What the file of an average says: all that the direction's does, but another kind and no metrics."""
    shape = {"h_channels": averaged.delta_h.shape[1], "h_size": averaged.delta_h.shape[2]}
    if isinstance(averaged, GlobalDelta):
        return replace(info, kind="global", arguments=shape, metrics={})
    arguments = {"timesteps": averaged.timesteps.tolist(), **shape}
    return replace(info, kind="per_timestep", arguments=arguments, metrics={})
