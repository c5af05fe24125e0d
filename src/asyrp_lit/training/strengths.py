"""Strengths that training edits at, so that a direction holds at others than 1 (not in the paper)."""

import torch
from jaxtyping import Int
from torch import Tensor

from asyrp_lit.shapes import PerSample


def draw_strengths(index: Int[Tensor, " batch"], epoch: int, low: float, high: float) -> PerSample:
    """A strength for each image, uniform from low to high: of the image and the pass, not of its batch or process.

    Args:
        index: (B,) int64 places of the images in their store.
        epoch: number of the pass over the images, so that each pass draws others.
        low, high: the range.
    """
    generators = [torch.Generator().manual_seed((i * 1009 + epoch) % 2**63) for i in index.tolist()]
    shares = torch.stack([torch.rand((), generator=generator) for generator in generators])
    return (low + (high - low) * shares).to(index.device)
