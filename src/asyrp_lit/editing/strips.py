"""Several strengths of one direction side by side."""

import torch

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table


def name_strength(strength: float) -> str:
    """Column name of a strength, such as ``strength 0.5``."""
    return f"strength {strength:g}"


def sample_strengths(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction,
    interval: Interval,
    strengths: tuple[float, ...],
    seeds: list[int],
) -> dict[str, Images]:
    """An edit for each strength, all in one batch, by column name.

    Args:
        model, x_T, grid, alphas_cumprod, direction, interval, seeds: as for ``sample_images``.
        strengths: multipliers of delta_h; a negative one turns the other way.

    Returns:
        ``{"strength -1": ..., "strength 0.5": ...}`` in the order of ``strengths``.
    """
    per_sample = torch.tensor(strengths).repeat_interleave(len(x_T)).view(-1, 1, 1, 1).to(x_T)
    edits = sample_images(
        model,
        x_T.repeat(len(strengths), 1, 1, 1),
        grid,
        alphas_cumprod,
        Scaled(direction, per_sample),
        interval,
        seeds * len(strengths),
    )
    names = [name_strength(strength) for strength in strengths]
    return dict(zip(names, edits.chunk(len(strengths)), strict=True))
