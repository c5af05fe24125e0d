"""An untrained network and a direction for it."""

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.models.hspace_unet import HSpaceUNet


@pytest.fixture(scope="module")
def model():
    """Its last layer is scaled down, so that eps changes as slowly along t as a trained one's."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    return HSpaceUNet(unet)


@pytest.fixture(scope="module")
def direction():
    torch.manual_seed(1)
    return DDPMDelta(16, 32, num_groups=4).requires_grad_(False)
