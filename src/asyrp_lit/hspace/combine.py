"""Scaling and adding of delta_h (Asyrp, section 5.2 and appendix)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from asyrp_lit.hspace.direction import Direction
from asyrp_lit.shapes import BottleneckH, TimeEmbedding, Timesteps


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

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """strength * delta_h."""
        return self.strength * self.direction(h, temb, t)
