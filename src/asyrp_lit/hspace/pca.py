"""Principal components of h over samples, a batch at a time.

Incremental SVD (Ross et al. 2008, "Incremental learning for robust visual tracking", section 2.1): what is known is
kept as the ``rank`` longest rows of S V^T and joined to the rows of the next batch. Memory does not grow with the
samples, and up to ``rank + 1`` samples nothing is dropped, so that the result is the SVD of all of them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

#: Samples of one or more groups that share components and have a mean each.
Samples = Float[Tensor, "groups samples features"]


class Scatter(NamedTuple):
    """What is known of the samples so far.

    Attributes:
        num_samples: of each group.
        mean: (groups, features) of each group.
        rows: (rank, features) S V^T of the samples around their means, the longest first.
        total: () sum of squares around the means, of what was dropped too.
    """

    num_samples: int
    mean: Tensor
    rows: Tensor
    total: Tensor


class Components(NamedTuple):
    """Principal components, the largest first.

    Attributes:
        vectors: (k, features) orthogonal, each as long as one standard deviation of the samples along it.
        explained: (k,) share of the variance, 0 to 1.
    """

    vectors: Float[Tensor, "components features"]
    explained: Float[Tensor, " components"]


def add_samples(scatter: Scatter | None, samples: Samples, rank: int) -> Scatter:
    """The scatter with one batch more (Ross et al. 2008, eq. 4 to 6).

    Args:
        scatter: of the batches before; ``None`` for the first.
        samples: equally many of each group.
        rank: rows to keep, 1 or more.
    """
    new, mean = samples.shape[1], samples.mean(dim=1)
    centred = (samples - mean[:, None]).flatten(0, 1)
    if scatter is None:
        known, count, total = centred[:0], 0, centred.new_zeros(())
        shift, joint_mean = centred[:0], mean
    else:
        count, old_mean, known, total = scatter
        shift = (count * new / (count + new)) ** 0.5 * (old_mean - mean)
        joint_mean = old_mean + new / (count + new) * (mean - old_mean)
    _, lengths, directions = torch.linalg.svd(torch.cat([known, centred, shift]), full_matrices=False)
    rows = (lengths[:, None] * directions)[:rank]
    return Scatter(count + new, joint_mean, rows, total + centred.square().sum() + shift.square().sum())


def find_components(scatter: Scatter, num_components: int) -> Components:
    """The first principal components; the sign is such that the largest entry of each is positive.

    Raises:
        ValueError: there are fewer, for want of samples or of rows kept.
    """
    groups = len(scatter.mean)
    degrees = groups * (scatter.num_samples - 1)
    most = min(degrees, len(scatter.rows))
    if not 1 <= num_components <= most:
        raise ValueError(
            f"{scatter.num_samples} samples have 1 to {most} components, got num_components {num_components}"
        )
    rows = scatter.rows[:num_components]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    explained = rows.square().sum(dim=1) / scatter.total
    return Components(rows * largest.sign() / degrees**0.5, explained)
