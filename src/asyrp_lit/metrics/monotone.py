"""Whether an edit grows with its strength: rank correlation of strength and oracle score, and how far that falls."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

#: A score in [0, 1] for every strength and image.
Scores = Float[Tensor, "strengths images"]


class Monotony(NamedTuple):
    """Spearman's rank correlations with the strength, in [-1, 1] and NaN where all scores are equal, and the fall.

    Attributes:
        of_images: over all pairs of an image and a strength; images that start apart lower it.
        of_each: the mean over images of each one's own; images whose score never moves are left out.
        of_mean: of the mean over images, 1 where that rises at every step. Where it stays at 0 or 1, ranks are chance.
        largest_fall: of the mean, from a strength to any higher one, in [0, 1]; 0 where it never falls.
    """

    of_images: float
    of_each: float
    of_mean: float
    largest_fall: float


def _correlate(strengths: Tensor, scores: Tensor) -> float:
    if bool((scores == scores[0]).all()):
        return math.nan
    return float(spearman_corrcoef(scores.double(), strengths.double()))


def measure_monotony(strengths: Sequence[float], scores: Scores) -> Monotony:
    """How monotone scores are in the strength; ties share their mean rank.

    Args:
        strengths: of the rows, in any order.
        scores: (S, N).

    Raises:
        ValueError: fewer than three different strengths, or not one row a strength.
    """
    if len(strengths) != len(scores) or len(set(strengths)) < 3:
        raise ValueError(
            f"a rank correlation needs three different strengths or more and a row of scores for each, got "
            f"{list(strengths)} and {tuple(scores.shape)}"
        )
    column = torch.tensor([float(strength) for strength in strengths])
    mean = scores.cpu().mean(dim=1)
    rising = mean[column.argsort(stable=True)]
    each = [_correlate(column, own) for own in scores.cpu().T]
    moved = [value for value in each if not math.isnan(value)]
    return Monotony(
        of_images=_correlate(column.repeat_interleave(scores.shape[1]), scores.cpu().flatten()),
        of_each=sum(moved) / len(moved) if moved else math.nan,
        of_mean=_correlate(column, mean),
        largest_fall=float((rising.cummax(dim=0).values - rising).max()),
    )
