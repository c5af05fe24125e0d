"""What an edit does with latents: directions, their strengths and intervals, the time grid, the process."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import Process, Seeds, check_process, sample_images
from asyrp_lit.hspace.combine import Combined, Scaled, rescale_to_steps
from asyrp_lit.hspace.direction import Direction, DirectionInfo, get_space
from asyrp_lit.hspace.interval import check_interval
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Edits, Images, Mask

log = logging.getLogger(__name__)

#: A direction and what its file says.
LoadedDirection = tuple[Direction, DirectionInfo]
#: Strengths of the directions of a plan; ``None`` for the plain reconstruction, which is never boosted.
Combination = Sequence[float] | None


@dataclass(frozen=True)
class EditPlan:
    """Everything about an edit but images and strengths; made by ``make_plan``.

    Attributes:
        directions: each for strength 1 on this grid.
        intervals: where each takes part; ``None`` for all of ``interval``.
        interval: where any edits, and where quality is boosted.
        grid: ascending timesteps.
        normalise: whether a sum of n directions is divided by sqrt(n).
        process: where the edited noise goes.
        mask: the share of delta_h that each place gets; ``None`` for all.
    """

    directions: tuple[Direction, ...]
    intervals: tuple[Interval, ...] | None
    interval: Interval
    grid: tuple[int, ...]
    normalise: bool = True
    process: Process = "asymmetric"
    mask: Mask | None = None


def choose_joint(infos: Sequence[DirectionInfo]) -> int:
    """Of which direction the joint interval is: whose texts have the largest cosine (Asyrp, appendix); first of equals.

    Where a file does not know its cosine, the highest t_edit tells: on the same curves it belongs to the largest.
    """
    cosines = [info.loss.get("cos_text") for info in infos]
    if all(isinstance(cosine, int | float) for cosine in cosines):
        return max(range(len(infos)), key=lambda i: cosines[i] or 0.0)
    return max(range(len(infos)), key=lambda i: infos[i].t_edit)


def _override(interval: Interval, changes: dict[str, int | None]) -> Interval:
    given = {name: value for name, value in changes.items() if value is not None}
    return check_interval(**{**interval._asdict(), **given})


def fit_to_grid(loaded: LoadedDirection, grid: Sequence[int]) -> tuple[Interval, float]:
    """Where a direction takes part on a time grid, and the factor that makes up for its number of steps.

    What moves x_t itself does so once: at the step nearest to that of its search, as it is.
    """
    direction, info = loaded
    if get_space(direction) != "x":
        return Interval(info.t_edit, info.t_boost, info.t_start), rescale_to_steps(info.num_steps, len(grid))
    t = min(grid[1:], key=lambda step: abs(step - info.t_start))
    return Interval(t, info.t_boost, t), 1.0


def make_plan(
    loaded: Sequence[LoadedDirection],
    num_steps: int | None = None,
    normalise: bool = True,
    own_intervals: bool = True,
    process: str = "asymmetric",
    mask: Mask | None = None,
    t_edit: int | None = None,
    t_boost: int | None = None,
    t_start: int | None = None,
    t_0: int = 999,
) -> EditPlan:
    """How to edit with one direction or several.

    Args:
        loaded: directions with what their files say, as from ``load_direction``.
        num_steps: of the process, which must be those of the inversion; ``None`` for the most of the trainings. delta_h
            is scaled by n_train / n_test, which keeps its sum; what moves x_t itself does so at the nearest step.
        normalise: whether a sum of n directions is divided by sqrt(n).
        own_intervals: whether several directions edit each in the interval of its training, or all in that of
            the one that ``choose_joint`` picks.
        process: ``asymmetric`` or ``symmetric``.
        mask: (1, 1, H, W) in [0, 1] at the resolution of h.
        t_edit, t_boost, t_start: in place of every direction's own; ``None`` keeps them.
        t_0: noisiest timestep.

    Raises:
        ValueError: a value is out of range, no step edits, the directions cannot be added, or what moves x_t itself is
            given an interval.
    """
    if not loaded:
        raise ValueError("an edit needs one direction or more")
    infos = [info for _, info in loaded]
    steps = max(info.num_steps for info in infos) if num_steps is None else num_steps
    grid = make_time_grid(steps, t_0)
    changes = {"t_edit": t_edit, "t_boost": t_boost, "t_start": t_start}
    fitted = [fit_to_grid(each, grid) for each in loaded]
    if (t_edit, t_start) != (None, None) and any(get_space(direction) == "x" for direction, _ in loaded):
        raise ValueError(
            f"a direction that moves x_t (pullback) does so at one timestep, {fitted[0][0].t_start} here: leave t_edit "
            "and t_start out"
        )
    own = tuple(_override(interval, changes) for interval, _ in fitted)
    joint = _override(fitted[choose_joint(infos)][0], changes)
    if own_intervals:
        joint = Interval(min(i.t_edit for i in own), joint.t_boost, max(i.t_start for i in own))
    if not any(in_editing_phase(t, joint) for t in grid):
        raise ValueError(
            f"no step edits: the interval is {joint.t_start} >= t >= t_edit = {joint.t_edit}, the timesteps are "
            f"{grid[0]} to {grid[-1]}; lower t_edit or raise t_start"
        )
    scaled = tuple(Scaled(direction, factor) for (direction, _), (_, factor) in zip(loaded, fitted, strict=True))
    Combined(scaled, [(0.0,) * len(scaled)])  # finds what cannot be added before any work
    return EditPlan(scaled, own if own_intervals else None, joint, grid, normalise, check_process(process), mask)


def edit_latents(
    model: HSpaceUNet,
    x_T: Images,
    plan: EditPlan,
    combinations: Sequence[Combination],
    seeds: Seeds | None = None,
    batch_size: int = 16,
) -> Edits:
    """Images from latents at every combination of strengths.

    Combinations that are sampled together share every pass until the first edited step. Equal ones are sampled once;
    where nothing is boosted strengths of 0 are the reconstruction.

    Args:
        model: the frozen network.
        x_T: latents at the top of the plan's grid, (B, 3, S, S).
        plan: what to do.
        combinations: one strength a direction each, or ``None``.
        seeds: of the boosting noise, one an image; ``None`` counts from 0.
        batch_size: images per pass, about.

    Returns:
        (len(combinations) * B, 3, S, S) float32, combination by combination, about [-1, 1], not clipped.

    Raises:
        FloatingPointError: strengths are so large that an edit overflows.
    """
    seeds = range(len(x_T)) if seeds is None else seeds
    together = max(2, batch_size // max(1, len(x_T)))
    alphas_cumprod = make_alphas_cumprod().to(x_T.device)
    boosted = plan.interval.t_boost > 0  # boosting noise parts even an edit of strength 0 from the reconstruction
    wanted = [tuple(row) if row is not None and (boosted or any(row)) else None for row in combinations]
    distinct = list(dict.fromkeys(wanted))
    found: dict[tuple[float, ...] | None, Images] = {}
    for first in range(0, len(distinct), together):
        rows = distinct[first : first + together]
        strengths = [(0.0,) * len(plan.directions) if row is None else row for row in rows]
        combined = Combined(plan.directions, strengths, plan.normalise, plan.intervals, plan.mask)
        own_seeds = [None if row is None else seed for row in rows for seed in seeds]
        rest = (plan.grid, alphas_cumprod, combined, plan.interval, own_seeds, plan.process)
        images = sample_images(model, x_T, *rest).float()
        for row, edits in zip(rows, images.chunk(len(rows)), strict=True):
            if not edits.isfinite().all():
                raise FloatingPointError(f"the edit with strengths {list(row or ())} is no longer finite: lower them")
            found[row] = edits
    return torch.cat([found[row] for row in wanted])
