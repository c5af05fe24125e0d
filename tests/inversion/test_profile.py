import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn
from torch.testing import assert_close

from asyrp_lit.diffusion.ddim import compute_pred_x0
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.inversion.profile import LPIPSProfile, measure_lpips, profile_images
from asyrp_lit.models.hspace_unet import HSpaceUNet

ALPHAS = make_alphas_cumprod()
GRID = make_time_grid(5)


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


@pytest.fixture
def profile(model, tmp_path):
    """``profile(NUM_IMAGES)``: a profile kept in a folder, and ``profile.read``: the indices that were asked for."""

    def profile(num_images, batch_size=2, folder=tmp_path / "lpips", grid=GRID):
        def read_images(indices):
            profile.read += indices
            seeds = (torch.Generator().manual_seed(index) for index in indices)
            return torch.stack([torch.rand(3, 16, 16, generator=seed) * 2 - 1 for seed in seeds])

        profile.read = []
        return profile_images(model, read_images, num_images, folder, grid, ALPHAS, MeanDistance(), batch_size)

    return profile


def assert_same(found, expected):
    assert found.timesteps == expected.timesteps
    assert torch.equal(found.pred_x0, expected.pred_x0)
    assert torch.equal(found.x_t, expected.x_t)


def test_a_profile_costs_one_pass_per_image_and_timestep(model, x_0):
    model.passes.update(encode=0, decode=0)
    counted = []
    measure_lpips(model, x_0, GRID, ALPHAS, MeanDistance(), counted.append)
    assert model.passes == {"encode": 3 * 4, "decode": 3 * 4}
    assert sum(counted) == 3 * 4


def test_curves_are_mean_distances_to_x_t_and_p_t_of_the_inversion(model, x_0):
    curves, distance = measure_lpips(model, x_0, GRID, ALPHAS, MeanDistance()).average(), MeanDistance()
    assert (curves.timesteps, curves.num_images) == (GRID[:-1], 3)
    for k, t in enumerate(GRID[:-1]):
        x_t = x_0 if k == 0 else invert_images(model, x_0, GRID[: k + 1], ALPHAS).x_T
        pred_x0 = compute_pred_x0(x_t, model(x_t, torch.full((3,), t)), gather_alpha_bar(ALPHAS, torch.full((3,), t)))
        assert curves.x_t[k] == pytest.approx(float(distance(x_0, x_t).mean()), abs=2e-5)
        assert curves.pred_x0[k] == pytest.approx(float(distance(x_0, pred_x0).mean()), abs=2e-5, rel=1e-5)


def test_half_of_the_images_lie_between_the_quartiles():
    distances = torch.arange(5.0).view(5, 1) + torch.tensor([0.0, 10.0])
    lower, upper = LPIPSProfile((0, 500), distances, 2 * distances).find_quartiles()
    assert (lower.pred_x0, upper.pred_x0) == ((1.0, 11.0), (3.0, 13.0))
    assert (lower.x_t, upper.x_t) == ((2.0, 22.0), (6.0, 26.0))


def test_a_profile_does_not_depend_on_its_batches(profile, tmp_path):
    found, expected = profile(5, 2, tmp_path / "a"), profile(5, 5, tmp_path / "b")
    assert_close(found.pred_x0, expected.pred_x0, rtol=1e-5, atol=1e-5)
    assert_close(found.x_t, expected.x_t, rtol=1e-5, atol=1e-5)


def test_a_profile_that_was_stopped_computes_what_is_missing_and_is_the_same(profile, tmp_path):
    expected = profile(5, folder=tmp_path / "whole")
    profile(5)
    (tmp_path / "lpips/images-000002-000003.safetensors").unlink()
    assert_same(profile(5), expected)
    assert profile.read == [2, 3]
    assert_same(profile(5), expected)
    assert profile.read == []


def test_more_images_cost_only_themselves_and_fewer_nothing(profile, tmp_path):
    profile(3)
    more = profile(6)
    assert profile.read == [3, 4, 5]
    assert_close(more.x_t, profile(6, folder=tmp_path / "whole").x_t, rtol=1e-5, atol=1e-5)
    assert torch.equal(profile(2).x_t, more.x_t[:2])
    assert profile.read == []


@pytest.mark.parametrize("damage", [b"", b"no tensors at all", "another grid"])
def test_a_damaged_part_is_measured_again(profile, tmp_path, caplog, damage):
    expected, path = profile(3), tmp_path / "lpips/images-000000-000001.safetensors"
    if damage == "another grid":
        profile(3, folder=tmp_path / "other", grid=make_time_grid(4))
        damage = (tmp_path / "other" / path.name).read_bytes()
    path.write_bytes(damage)
    assert_same(profile(3), expected)
    assert profile.read == [0, 1]
    assert f"{path} is damaged" in caplog.text


def test_a_distance_that_is_not_finite_names_its_image_and_keeps_the_others(profile, model, tmp_path, monkeypatch):
    def forward(self, x, y):
        values = (x - y).abs().mean(dim=(1, 2, 3))
        return values if len(values) == 2 else values * torch.nan

    monkeypatch.setattr(MeanDistance, "forward", forward)
    with pytest.raises(FloatingPointError, match=r"not finite for image 2 \(counted from 0\)"):
        profile(3)
    assert [path.name for path in (tmp_path / "lpips").glob("images-*")] == ["images-000000-000001.safetensors"]


def test_two_who_want_the_same_curves_at_once_measure_them_once(model, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    asked, waits = [], threading.Event()

    def read_images(indices):
        asked.append(list(indices))
        assert waits.wait(30)  # the first goes on when the second has come
        return torch.zeros(len(indices), 3, 16, 16)

    def measure():
        return profile_images(model, read_images, 3, tmp_path / "lpips", GRID, ALPHAS, MeanDistance(), 2)

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(measure) for _ in range(2)]
        while "waiting for another process that is measuring LPIPS curves" not in caplog.text:
            assert not any(one.done() for one in both)
            time.sleep(0.01)
        waits.set()
    assert asked == [[0, 1], [2]]
    assert_same(*(one.result() for one in both))
