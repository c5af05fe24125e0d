import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.strips import sample_strengths
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.models.hspace_unet import HSpaceUNet

INTERVAL = Interval(t_edit=499, t_boost=500)
SEEDS = [11, 22]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    direction = DDPMDelta(16, 32, num_groups=4).requires_grad_(False)
    return (HSpaceUNet(unet), 0.01 * torch.randn(2, 3, 16, 16), make_time_grid(5), make_alphas_cumprod()), direction


def test_several_strengths_at_once_are_each_of_them_alone(parts):
    common, direction = parts
    columns = sample_strengths(*common, direction, INTERVAL, (-1.0, 0.5, 2.0), SEEDS)
    for strength in (-1.0, 0.5, 2.0):
        alone = sample_images(*common, Scaled(direction, strength), INTERVAL, SEEDS)
        assert_close(columns[f"strength {strength:g}"], alone, atol=1e-5, rtol=1e-5)
    assert list(columns) == ["strength -1", "strength 0.5", "strength 2"]
