import pytest
import torch
from diffusers import DDPMScheduler
from torch.testing import assert_close

from asyrp_lit.diffusion.schedule import add_noise, compute_snr, gather_alpha_bar, make_alphas_cumprod, make_time_grid


def test_alphas_cumprod_agree_with_diffusers():
    assert_close(make_alphas_cumprod(), DDPMScheduler().alphas_cumprod, atol=1e-7, rtol=1e-5)


def test_alphas_cumprod_fall_strictly_inside_0_and_1():
    table = make_alphas_cumprod()
    assert table.dtype == torch.float32
    assert 0 < table[-1] < table[0] < 1
    assert (table.diff() < 0).all()


def test_grid_of_40_is_the_released_one():
    grid = make_time_grid(40)
    assert len(grid) == 40
    assert grid[:4] == (0, 25, 51, 76)
    assert grid[-2:] == (973, 999)


@pytest.mark.parametrize(("num_steps", "t_0"), [(2, 999), (7, 500), (333, 999), (1000, 999), (2, 1)])
def test_grids_rise_from_0_to_t_0_as_the_released_formula_does(num_steps, t_0):
    grid = make_time_grid(num_steps, t_0)
    assert grid == tuple(int(i / (num_steps - 1) * t_0 + 1e-6) for i in range(num_steps))
    assert len(set(grid)) == num_steps
    assert (grid[0], grid[-1]) == (0, t_0)


@pytest.mark.parametrize("num_steps", [1, 12])
def test_grid_refuses_impossible_num_steps(num_steps):
    with pytest.raises(ValueError, match=rf"num_steps must be 2 to t_0 \+ 1 = 11, got {num_steps}"):
        make_time_grid(num_steps, t_0=10)


@pytest.mark.parametrize("t_0", [0, 1000])
def test_grid_refuses_impossible_t_0(t_0):
    with pytest.raises(ValueError, match=f"t_0 must be 1 to 999, got {t_0}"):
        make_time_grid(10, t_0)


def test_alpha_bar_is_exactly_1_when_clean():
    table = make_alphas_cumprod()
    alpha_bar_t = gather_alpha_bar(table, torch.tensor([-1, 0, 999]))
    assert alpha_bar_t.shape == (3, 1, 1, 1)
    assert alpha_bar_t.flatten().tolist() == [1.0, table[0], table[999]]


def test_add_noise_agrees_with_diffusers():
    x_0, eps = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 900])
    expected = DDPMScheduler().add_noise(x_0, eps, t)
    assert_close(add_noise(x_0, eps, gather_alpha_bar(make_alphas_cumprod(), t)), expected, atol=1e-6, rtol=1e-5)


def test_snr_is_signal_variance_over_noise_variance():
    assert_close(compute_snr(torch.tensor([0.5, 0.8])), torch.tensor([1.0, 4.0]))
