"""delta_h averaged over images as a direction of its own: what ``kind=mean`` and ``kind=global`` are to ``edit.py``."""

from typing import SupportsIndex

import torch

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.average import average_direction, average_timesteps, check_averaged, describe_average
from asyrp_lit.library.edit import DirectionInput, load_directions
from asyrp_lit.library.images import ImageInput
from asyrp_lit.library.latents import BATCH_SIZE, Latents, check_count, find_latents, get_device
from asyrp_lit.library.models import ModelDirection
from asyrp_lit.models.hspace_unet import HSpaceUNet

#: Over images at each timestep, or over timesteps too.
AVERAGES = ("mean", "global")


def average(
    model: HSpaceUNet,
    images: ImageInput | Latents,
    direction: DirectionInput,
    kind: str = "mean",
    batch_size: SupportsIndex = BATCH_SIZE,
) -> ModelDirection:
    """A direction that is the same for every image: what another proposes, averaged over some (Asyrp, section 5.3).

    Args:
        model: from ``load_model``.
        images: to average over, the paper's 20 or so, or latents of them in the direction's own number of steps.
        direction: in h-space.
        kind: ``mean`` for one delta_h a timestep, ``global`` for one in all.
        batch_size: images per pass.

    Raises:
        FileNotFoundError, TypeError, ValueError: an argument is not possible; the message says what is.
    """
    if kind not in AVERAGES:
        raise ValueError(f"kind must be one of {', '.join(AVERAGES)}, got {kind!r}")
    batch_size = check_count("batch_size", batch_size)
    (chosen,) = load_directions(model, [direction])
    device = get_device(model)
    placed, info = chosen.place_on(model, device)
    check_averaged(placed)
    if isinstance(images, Latents) and images.num_steps != info.num_steps:
        raise ValueError(
            f"the direction is of {info.num_steps} steps, and these latents took {images.num_steps}: invert with "
            f"num_steps={info.num_steps}"
        )
    latents = find_latents(model, images, info.num_steps, info.num_steps, batch_size)
    batches = (x_T.to(device) for x_T in torch.split(latents.x_T, batch_size))
    grid, interval = make_time_grid(info.num_steps), Interval(info.t_edit, info.t_boost, info.t_start)
    mean = average_direction(model, batches, grid, make_alphas_cumprod().to(device), placed, interval)
    averaged = average_timesteps(mean) if kind == "global" else mean
    return ModelDirection(averaged, describe_average(info, averaged), model)
