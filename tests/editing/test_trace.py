import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.trace import trace_h
from asyrp_lit.models.hspace_unet import HSpaceUNet

ALPHAS, GRID = make_alphas_cumprod(), make_time_grid(5)  # 0, 249, 499, 749, 999


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return HSpaceUNet(unet)


@pytest.fixture(name="x_T")
def draw_latents():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_h_is_what_the_unedited_sampler_sees(model, x_T):
    seen = []

    def watch(h, temb, t):
        seen.append((int(t[0]), h.clone()))
        return torch.zeros_like(h)

    sample_images(model, x_T, GRID, ALPHAS, watch, Interval(0, 0))
    points = list(trace_h(model, x_T, GRID, ALPHAS, Interval(249, 0, 749)))
    assert [point.t for point in points] == [749, 499, 249]
    for point, (t, h) in zip(points, seen[1:4], strict=True):
        assert point.t == t
        # the sampler decodes eps and eps_edit in one batch: rounding
        assert_close(point.h, h, atol=1e-4, rtol=1e-4)
        assert_close(model.encode(point.x_t, torch.full((2,), t)).h, point.h)


@pytest.mark.parametrize(
    ("interval", "encodes", "decodes"), [((249, 0, 749), 4, 3), ((999, 0), 1, 0), ((300, 0, 400), 0, 0)]
)
def test_nothing_is_computed_below_the_interval(model, x_T, interval, encodes, decodes):
    model.passes.update(encode=0, decode=0)
    list(trace_h(model, x_T, GRID, ALPHAS, Interval(*interval)))
    assert model.passes == {"encode": 2 * encodes, "decode": 2 * decodes}
