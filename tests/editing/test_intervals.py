import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.intervals import NEVER, sample_intervals
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.models.hspace_unet import HSpaceUNet

#: On the grid 0, 249, 499, 749, 999.
INTERVALS = [NEVER, *(Interval(t_edit, t_boost, 749) for t_edit in (249, 499, 749) for t_boost in (0, 250, 1000))]
SEEDS = [11, 22]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    direction = DDPMDelta(16, 32, num_groups=4).requires_grad_(False)
    return HSpaceUNet(unet), 0.01 * torch.randn(2, 3, 16, 16), make_time_grid(5), make_alphas_cumprod(), direction


def test_intervals_at_once_are_each_of_them_alone(parts):
    found = sample_intervals(*parts, INTERVALS, SEEDS)
    for interval, images in zip(INTERVALS, found, strict=True):
        assert_close(images, sample_images(*parts, interval, SEEDS), atol=1e-5, rtol=1e-5)


def test_never_is_the_reconstruction(parts):
    assert_close(sample_intervals(*parts, [NEVER], SEEDS)[0], sample_images(*parts[:4]), atol=1e-5, rtol=1e-5)


def test_intervals_share_their_passes_until_they_part(parts):
    model, steps = parts[0], []
    model.passes.update(encode=0, decode=0)
    sample_intervals(*parts, [Interval(t_edit, 0) for t_edit in (249, 499, 749)], SEEDS, steps.append)
    # One branch at 999 and 749; at 499 the third parts, at 249 the second. All but the parted ones edit, until 0.
    assert model.passes == {"encode": 2 * (1 + 1 + 2 + 3 + 3), "decode": 2 * (2 + 2 + 3 + 4 + 3)}
    assert steps == [2] * 5


def test_equal_intervals_cost_one(parts):
    model = parts[0]
    model.passes.update(encode=0, decode=0)
    first, second = sample_intervals(*parts, [Interval(249, 500)] * 2, SEEDS)
    assert torch.equal(first, second)
    assert model.passes["encode"] == 2 * 5
