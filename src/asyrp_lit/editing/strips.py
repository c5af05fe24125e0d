"""Several strengths of one direction side by side."""

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.combine import Combined
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table

#: Column name of plain inversion and back.
RECONSTRUCTION = "reconstruction"


def name_strength(strength: float | None) -> str:
    """Column name of a strength, such as ``strength 0.5``; of ``None`` that of the plain reconstruction."""
    return RECONSTRUCTION if strength is None else f"strength {strength:g}"


def sample_strengths(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction,
    interval: Interval,
    strengths: tuple[float | None, ...],
    seeds: list[int],
) -> dict[str, Images]:
    """An edit for each strength, all in one batch, by column name.

    They share every pass until the first edited step, and eps there.

    Args:
        model, x_T, grid, alphas_cumprod, direction, interval, seeds: as for ``sample_images``.
        strengths: multipliers of delta_h; a negative one turns the other way, ``None`` is the plain reconstruction,
            which is never boosted.

    Returns:
        ``{"strength -1": ..., "strength 0.5": ...}`` in the order of ``strengths``.
    """
    combined = Combined([direction], [(strength or 0.0,) for strength in strengths])
    own_seeds = [None if strength is None else seed for strength in strengths for seed in seeds]
    images = sample_images(model, x_T, grid, alphas_cumprod, combined, interval, own_seeds)
    names = [name_strength(strength) for strength in strengths]
    return dict(zip(names, images.chunk(len(names)), strict=True))
