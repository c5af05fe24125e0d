"""Scaling and adding of delta_h (Asyrp, section 5.2 and appendix)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.hspace.direction import Direction, Space, get_space
from asyrp_lit.shapes import BottleneckH, Mask, TimeEmbedding, Timesteps


def rescale_to_steps(num_train_steps: int, num_test_steps: int) -> float:
    """Factor that keeps the sum of delta_h over the process when the number of steps changes: n_train / n_test."""
    return num_train_steps / num_test_steps


def combine_deltas(
    deltas: Sequence[BottleneckH], strengths: Sequence[float | Tensor], normalise: bool = True
) -> BottleneckH:
    """sum_i strength_i delta_h_i, over sqrt(n) when ``normalise``; a strength may be one per sample, (B, 1, 1, 1).

    Raises:
        ValueError: no delta, or as many strengths as deltas are not given.
    """
    if not deltas or len(deltas) != len(strengths):
        raise ValueError(
            f"{len(deltas)} directions need {len(deltas)} strengths (and at least one), got {len(strengths)}"
        )
    total = torch.stack([strength * delta for strength, delta in zip(strengths, deltas, strict=True)]).sum(dim=0)
    return total / math.sqrt(len(deltas)) if normalise else total


class Scaled:
    """A direction times a strength, one number or one per sample.

    Args:
        direction: what to scale.
        strength: a number, or (B, 1, 1, 1) for the batch it will see.
    """

    def __init__(self, direction: Direction, strength: float | Tensor) -> None:
        self.direction = direction
        self.strength = strength

    @property
    def space(self) -> Space:
        """That of the direction."""
        return get_space(self.direction)

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """strength * delta_h."""
        return self.strength * self.direction(h, temb, t)


class Combined:
    """Sums of directions, for one or several combinations of strengths at once.

    The batch that it sees has ``copies`` blocks, one a combination: all images with the first strengths, then all
    images with the second, and so on.

    Args:
        directions: one or more of one space, each for strength 1.
        strengths: for every copy one number a direction.
        normalise: whether sums of n directions are divided by sqrt(n), as the paper's are.
        intervals: for every direction the timesteps at which it takes part; ``None`` for all.
        mask: (1, 1, H, W) in [0, 1], the share of delta_h that each place of h gets; ``None`` for all of it.

    Raises:
        ValueError: no direction or combination, another number of strengths or intervals, one that is not finite, or
            directions of different spaces.
    """

    def __init__(
        self,
        directions: Sequence[Direction],
        strengths: Sequence[Sequence[int | float]],
        normalise: bool = True,
        intervals: Sequence[Interval] | None = None,
        mask: Mask | None = None,
    ) -> None:
        if not directions or not strengths:
            raise ValueError(f"give at least one direction and one strength, not {len(directions)}, {len(strengths)}")
        for row in strengths:
            if len(row) != len(directions):
                raise ValueError(f"{len(directions)} directions need {len(directions)} strengths, got {list(row)}")
            if not all(map(math.isfinite, row)):
                raise ValueError(f"a strength must be a finite number, got {list(row)}")
        if intervals is not None and len(intervals) != len(directions):
            raise ValueError(f"{len(directions)} directions need {len(directions)} intervals, got {len(intervals)}")
        if len({get_space(direction) for direction in directions}) > 1:
            raise ValueError(
                "directions of different spaces (h, eps, x) cannot be added: edit with those of one space at a time"
            )
        self.directions = list(directions)
        self.strengths = [[float(strength) for strength in row] for row in strengths]
        self.normalise = normalise
        self.intervals = intervals
        self.mask = mask

    @property
    def copies(self) -> int:
        """How many combinations of strengths."""
        return len(self.strengths)

    @property
    def space(self) -> Space:
        """That of the directions."""
        return get_space(self.directions[0])

    def find_edited(self, num_samples: int) -> Timesteps:
        """Indices of the samples, of ``num_samples`` in ``copies`` blocks, with a strength other than 0."""
        edited = torch.tensor([any(row) for row in self.strengths]).repeat_interleave(num_samples // self.copies)
        return edited.nonzero().flatten()

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """The sum for every sample's own combination."""
        per_copy = torch.tensor(self.strengths).repeat_interleave(len(h) // self.copies, dim=0).to(h)
        strengths = [column.view(-1, 1, 1, 1) for column in per_copy.T]
        if self.intervals is not None:
            phases = [torch.as_tensor(in_editing_phase(t, interval)) for interval in self.intervals]
            strengths = [s * phase.view(-1, 1, 1, 1) for s, phase in zip(strengths, phases, strict=True)]
        deltas = [direction(h, temb, t) for direction in self.directions]
        total = combine_deltas(deltas, strengths, self.normalise)
        return total if self.mask is None else total * self.mask.to(total)


def list_parts(direction: Direction) -> list[Direction]:
    """The directions that a scaled or combined one is made of; any other is its own part."""
    if isinstance(direction, Scaled):
        return list_parts(direction.direction)
    if isinstance(direction, Combined):
        return [part for inner in direction.directions for part in list_parts(inner)]
    return [direction]
