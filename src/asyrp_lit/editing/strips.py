"""Several strengths of one direction side by side."""

import torch

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table


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
    """Reconstruction and an edit for each strength, by column name.

    Args:
        model, x_T, grid, alphas_cumprod, direction, interval, seeds: as for ``sample_images``.
        strengths: multipliers of delta_h; a negative one turns the other way.

    Returns:
        ``{"reconstruction": ..., "strength -1": ..., ...}``; the reconstruction is neither edited nor boosted.
    """
    columns = {"reconstruction": sample_images(model, x_T, grid, alphas_cumprod)}
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
    for strength, images in zip(strengths, edits.chunk(len(strengths)), strict=True):
        columns[f"strength {strength:g}"] = images
    return columns
