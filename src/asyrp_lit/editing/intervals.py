"""Several intervals of one direction side by side."""

from collections.abc import Callable, Sequence

import torch

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase
from asyrp_lit.editing.sample import Seeds, descend, sample_step
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table

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
    count_steps: Callable[[int], object] = lambda steps: None,
) -> list[Images]:
    """An edit for each interval, as ``sample_images`` makes it; they share every pass until their phases part.

    Args:
        model, x_T, grid, alphas_cumprod, direction, seeds: as for ``sample_images``.
        intervals: one or more; ``NEVER`` is the reconstruction.
        count_steps: called after every step with the images in the batch, for a progress bar.

    Returns:
        (B, C, S, S) for each interval, in their order.
    """
    branches: dict[tuple[int, ...], Images] = {tuple(range(len(intervals))): x_T}
    for pair in descend(grid):
        branches = {
            numbers: sample_step(model, x, pair, alphas_cumprod, direction, intervals[numbers[0]], seeds)
            for together, x in branches.items()
            for numbers in _part(together, intervals, pair[0])
        }
        count_steps(len(x_T))
    found = {number: x for numbers, x in branches.items() for number in numbers}
    return [found[number] for number in range(len(intervals))]


def _part(numbers: tuple[int, ...], intervals: Sequence[Interval], t: int) -> list[tuple[int, ...]]:
    """The intervals of a branch by their phase at t."""
    phases: dict[tuple[bool, bool], list[int]] = {}
    for number in numbers:
        interval = intervals[number]
        phase = bool(in_editing_phase(t, interval)), bool(in_boosting_phase(t, interval))
        phases.setdefault(phase, []).append(number)
    return [tuple(together) for together in phases.values()]
