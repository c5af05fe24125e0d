"""Directions between two classes of labelled images: the difference of their means, and a linear boundary."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.svm import LinearSVC
from torch import Tensor

from asyrp_lit.shapes import PerSample

#: h of every image at one timestep, flattened.
Features = Float[Tensor, "batch features"]


class Boundary(NamedTuple):
    """A linear boundary between two classes.

    Attributes:
        normal: (features,) unit, towards the positive class.
        offset: ``features @ normal > offset`` is positive.
    """

    normal: Float[Tensor, " features"]
    offset: float


def subtract_means(features: Features, positive: Bool[Tensor, " batch"]) -> Float[Tensor, " features"]:
    """From the mean of the negative class to that of the positive one."""
    return features[positive].mean(dim=0) - features[~positive].mean(dim=0)


def fit_boundary(features: Features, positive: Bool[Tensor, " batch"], penalty: float) -> Boundary:
    """The boundary of a linear support vector machine with balanced classes.

    Args:
        features: of both classes; their common scale does not matter.
        positive: which are of the positive class; both must occur.
        penalty: C, what a sample on the wrong side costs, for features whose root mean square distance to their mean
            is 1.
    """
    mean = features.mean(dim=0)
    scale = float((features - mean).square().sum(dim=1).mean().sqrt())
    samples = ((features - mean) / scale).double().cpu().numpy()
    machine = LinearSVC(C=penalty, class_weight="balanced", random_state=0, max_iter=10_000)
    machine.fit(samples, positive.cpu().numpy().astype(np.int64))
    weight = torch.from_numpy(machine.coef_[0]).to(features)
    normal = weight / weight.norm()
    offset = float(mean @ normal) - float(machine.intercept_[0]) * scale / float(weight.norm())
    return Boundary(normal, offset)


def scale_to_classes(normal: Float[Tensor, " features"], difference: Float[Tensor, " features"]) -> Tensor:
    """A unit normal times the distance of the class means along it, so that strength 1 goes from class to class."""
    return normal * (normal @ difference)


def classify(features: Features, boundary: Boundary) -> Bool[Tensor, " batch"]:
    """Which samples lie on the positive side."""
    scores: PerSample = features @ boundary.normal
    return scores > boundary.offset
