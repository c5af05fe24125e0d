"""f_t, the implicit neural direction (Asyrp, Kwon et al. 2023, section 3.4): delta_h from h and t.

Two layouts, one a family of base models; attribute names are the keys of the released files. Both end in a convolution
with torch's default initialisation and have no residual, so an untrained delta_h is random, not zero;
``hspace.scale.scale_delta`` makes it smaller.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from asyrp_lit.shapes import BottleneckH, TimeEmbedding, Timesteps

MAX_GROUPS = 32


def choose_num_groups(h_channels: int, num_groups: int | None) -> int:
    """Groups of a GroupNorm over ``h_channels``; ``None`` takes the largest divisor up to 32.

    Raises:
        ValueError: ``num_groups`` does not divide ``h_channels``.
    """
    if num_groups is None:
        return max(groups for groups in range(1, MAX_GROUPS + 1) if h_channels % groups == 0)
    if num_groups < 1 or h_channels % num_groups:
        raise ValueError(
            f"num_groups must divide h_channels = {h_channels}, got {num_groups}; "
            f"None takes {choose_num_groups(h_channels, None)}"
        )
    return num_groups


class DDPMDelta(nn.Module):
    """f_t for the DDPM family: conv 1x1, + Linear(SiLU(temb)), GroupNorm, SiLU, conv 1x1.

    Args:
        h_channels: channels of h.
        temb_channels: width of the time embedding.
        num_groups: of the GroupNorm; ``None`` takes the largest divisor of ``h_channels`` up to 32.
        use_time: ``False`` ignores temb; the projection stays, frozen, so that the keys are the same.
    """

    def __init__(
        self, h_channels: int, temb_channels: int, num_groups: int | None = MAX_GROUPS, use_time: bool = True
    ) -> None:
        super().__init__()
        self.use_time = use_time
        self.conv1 = nn.Conv2d(h_channels, h_channels, 1)
        self.temb_proj = nn.Linear(temb_channels, h_channels).requires_grad_(use_time)
        self.norm2 = nn.GroupNorm(choose_num_groups(h_channels, num_groups), h_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(h_channels, h_channels, 1)

    def forward(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """delta_h for h; t is known through temb alone."""
        hidden = self.conv1(h)
        if self.use_time:
            hidden = hidden + self.temb_proj(F.silu(temb))[:, :, None, None]
        delta_h: Tensor = self.conv2(F.silu(self.norm2(hidden)))
        return delta_h


class ADMDelta(nn.Module):
    """f_t for the ADM and iDDPM families: like ``DDPMDelta`` after one more GroupNorm and SiLU; no scale and shift.

    Args:
        h_channels: channels of h.
        temb_channels: width of the time embedding.
        num_groups: of both GroupNorms; ``None`` takes the largest divisor of ``h_channels`` up to 32.
        use_time: ``False`` ignores temb; the projection stays, frozen, so that the keys are the same.
    """

    def __init__(
        self, h_channels: int, temb_channels: int, num_groups: int | None = MAX_GROUPS, use_time: bool = True
    ) -> None:
        super().__init__()
        self.use_time = use_time
        groups = choose_num_groups(h_channels, num_groups)
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, h_channels, eps=1e-5), nn.SiLU(), nn.Conv2d(h_channels, h_channels, 1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(temb_channels, h_channels)).requires_grad_(use_time)
        # The Identity is the released layout's dropout (rate 0): it keeps the last convolution at index 3.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, h_channels, eps=1e-5), nn.SiLU(), nn.Identity(), nn.Conv2d(h_channels, h_channels, 1)
        )

    def forward(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """delta_h for h; t is known through temb alone."""
        hidden = self.in_layers(h)
        if self.use_time:
            hidden = hidden + self.emb_layers(temb)[:, :, None, None]
        delta_h: Tensor = self.out_layers(hidden)
        return delta_h
