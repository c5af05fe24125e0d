"""Several intervals of one direction side by side."""

from collections.abc import Iterator, Sequence

import torch
from tqdm import tqdm

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.kept import KeptImages
from asyrp_lit.editing.sample import Seeds, descend, sample_step
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Edits, Images, Table

#: No step is edited and none boosted: plain inversion and back.
NEVER = Interval(1001, 0)


@torch.inference_mode()
def sample_intervals(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction,
    intervals: Sequence[Interval],
    seeds: Seeds,
) -> Iterator[tuple[int, Images]]:
    """An edit for each interval, as ``sample_images`` makes it; they share every pass until their phases part.

    One is finished before the next goes on from where they parted, so that it can be kept.

    Args:
        model, x_T, grid, alphas_cumprod, direction, seeds: as for ``sample_images``.
        intervals: one or more; ``NEVER`` is the reconstruction.

    Yields:
        Place in ``intervals`` and images (B, C, S, S), in any order.
    """
    pairs = list(descend(grid))
    open_branches: list[tuple[tuple[int, ...], Images, int]] = [(tuple(range(len(intervals))), x_T, 0)]
    while open_branches:
        together, x, step = open_branches.pop()
        if step == len(pairs):
            yield from ((number, x) for number in together)
            continue
        for numbers in _part(together, intervals, pairs[step][0]):
            moved = sample_step(model, x, pairs[step], alphas_cumprod, direction, intervals[numbers[0]], seeds)
            open_branches.append((numbers, moved, step + 1))


def edit_intervals(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    direction: Direction,
    intervals: Sequence[Interval],
    batch_size: int,
    kept: KeptImages,
    seeds: Sequence[int],
) -> dict[Interval, Edits]:
    """Every image in every interval; an edit that is kept is not made again, a new one is kept at once.

    Args:
        model, grid, direction: as for ``sample_images``; the model decides where to compute.
        x_T: latents.
        intervals: different ones.
        batch_size: images per pass.
        kept: of this model, direction, grid, these images and seeds alone.
        seeds: of the boosting noise, one an image.

    Returns:
        Interval -> images in the order of ``x_T``, float32 on the CPU.
    """
    known = {interval: kept.read(_name(interval)) for interval in intervals}
    missing: dict[tuple[Interval, ...], list[int]] = {}
    for index in range(len(x_T)):
        missing.setdefault(tuple(i for i in intervals if index not in known[i]), []).append(index)
    missing.pop((), None)
    device = next(model.parameters()).device
    alphas_cumprod = make_alphas_cumprod().to(device)
    done = sum(index in found for found in known.values() for index in range(len(x_T)))
    with tqdm(total=len(x_T) * len(intervals), initial=done, desc="edit intervals", unit="img") as bar:
        for lacking, places in missing.items():
            for first in range(0, len(places), batch_size):
                some = places[first : first + batch_size]
                own_seeds = [seeds[place] for place in some]
                parts = (model, x_T[some].to(device), grid, alphas_cumprod, direction, lacking, own_seeds)
                for number, images in sample_intervals(*parts):
                    kept.write(_name(lacking[number]), some, images)
                    known[lacking[number]] |= dict(zip(some, images.float().cpu(), strict=True))
                    bar.update(len(some))
    return {interval: torch.stack([known[interval][i] for i in range(len(x_T))]) for interval in intervals}


def _name(interval: Interval) -> str:
    return "t_edit-{:04d}-t_boost-{:04d}-t_start-{:04d}".format(*interval)


def _part(numbers: tuple[int, ...], intervals: Sequence[Interval], t: int) -> list[tuple[int, ...]]:
    """The intervals of a branch by their phase at t."""
    phases: dict[tuple[bool, bool], list[int]] = {}
    for number in numbers:
        interval = intervals[number]
        phase = bool(in_editing_phase(t, interval)), bool(in_boosting_phase(t, interval))
        phases.setdefault(phase, []).append(number)
    return [tuple(together) for together in phases.values()]
