"""Directions without a network: delta_h itself is what is trained (Asyrp, section 3.3, the baseline of f_t)."""

from collections.abc import Sequence

import torch
from torch import nn

from asyrp_lit.shapes import BottleneckH, TimeEmbedding, Timesteps

#: A small random start: at exactly zero the CLIP direction between edit and source would have no gradient.
_INITIAL_STD = 0.01


class PerTimestepDelta(nn.Module):
    """One free delta_h for every timestep of a grid; between grid points the nearest one is used.

    Args:
        timesteps: ascending grid.
        h_channels, h_size: shape of h.
    """

    timesteps: torch.Tensor

    def __init__(self, timesteps: Sequence[int], h_channels: int, h_size: int) -> None:
        super().__init__()
        self.register_buffer("timesteps", torch.tensor(list(timesteps), dtype=torch.int64))
        self.delta_h = nn.Parameter(_INITIAL_STD * torch.randn(len(timesteps), h_channels, h_size, h_size))

    def forward(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """delta_h at t, the same for every image."""
        nearest = (t[:, None] - self.timesteps[None]).abs().argmin(dim=1)
        return self.delta_h[nearest]


class GlobalDelta(nn.Module):
    """One free delta_h for all timesteps.

    Args:
        h_channels, h_size: shape of h.
    """

    def __init__(self, h_channels: int, h_size: int) -> None:
        super().__init__()
        self.delta_h = nn.Parameter(_INITIAL_STD * torch.randn(1, h_channels, h_size, h_size))

    def forward(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """The same delta_h for every image and timestep."""
        return self.delta_h.expand(len(h), -1, -1, -1)
