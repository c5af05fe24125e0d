"""A direction in eps-space, the baseline that the paper sets h-space against (Asyrp, section 3.3 and appendix)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from asyrp_lit.hspace.f_t import choose_num_groups
from asyrp_lit.shapes import Images, TimeEmbedding, Timesteps


class EpsDelta(nn.Module):
    """f_t's layers on eps instead of h: conv 3x3, + Linear(SiLU(temb)), GroupNorm, SiLU, conv 3x3.

    A pixel of eps has 3 channels and no neighbours in it, where a place of h has hundreds that stand for a patch: hence
    ``width`` channels inside and 3x3 convolutions.

    Args:
        channels: of eps.
        temb_channels: width of the time embedding.
        width: channels inside; those of h make it as wide as f_t.
    """

    space: Literal["eps"] = "eps"

    def __init__(self, channels: int, temb_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.temb_proj = nn.Linear(temb_channels, width)
        self.norm2 = nn.GroupNorm(choose_num_groups(width, None), width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, eps: Images, temb: TimeEmbedding, t: Timesteps) -> Images:
        """delta_eps for eps; t is known through temb alone."""
        hidden = self.conv1(eps) + self.temb_proj(F.silu(temb))[:, :, None, None]
        delta_eps: Tensor = self.conv2(F.silu(self.norm2(hidden)))
        return delta_eps
