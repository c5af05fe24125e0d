import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from asyrp_lit.diffusion.ddim import compute_pred_x0
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.hspace.interval import LPIPSCurves
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.inversion.profile import load_curves, measure_lpips_curves, save_curves
from asyrp_lit.models.hspace_unet import HSpaceUNet

ALPHAS = make_alphas_cumprod()
GRID = make_time_grid(5)
CURVES = LPIPSCurves(GRID[:-1], (0.1, 0.2, 0.15, 0.4), (0.0, 0.5, 1.0, 1.3), num_images=3)


class MeanDistance(nn.Module):
    """Stands for LPIPS."""

    def forward(self, x, y):
        return (x - y).abs().mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return HSpaceUNet(unet)


@pytest.fixture
def x_0():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_curve_costs_one_pass_per_image_and_timestep(model, x_0):
    model.passes.update(encode=0, decode=0)
    measure_lpips_curves(model, x_0, GRID, ALPHAS, MeanDistance())
    assert model.passes == {"encode": 3 * 4, "decode": 3 * 4}


def test_curves_are_mean_distances_to_x_t_and_p_t_of_the_inversion(model, x_0):
    curves, distance = measure_lpips_curves(model, x_0, GRID, ALPHAS, MeanDistance()), MeanDistance()
    assert (curves.timesteps, curves.num_images) == (GRID[:-1], 3)
    for k, t in enumerate(GRID[:-1]):
        x_t = x_0 if k == 0 else invert_images(model, x_0, GRID[: k + 1], ALPHAS).x_T
        pred_x0 = compute_pred_x0(x_t, model(x_t, torch.full((3,), t)), gather_alpha_bar(ALPHAS, torch.full((3,), t)))
        assert curves.x_t[k] == pytest.approx(float(distance(x_0, x_t).mean()), abs=2e-5)
        assert curves.pred_x0[k] == pytest.approx(float(distance(x_0, pred_x0).mean()), abs=2e-5, rel=1e-5)


def test_curves_come_back_from_their_file_and_leave_nothing_beside_it(tmp_path):
    save_curves(tmp_path / "curves.json", CURVES)
    assert load_curves(tmp_path / "curves.json") == CURVES
    assert [path.name for path in tmp_path.iterdir()] == ["curves.json"]


def test_curves_that_were_not_kept_are_none(tmp_path):
    assert load_curves(tmp_path / "curves.json") is None
