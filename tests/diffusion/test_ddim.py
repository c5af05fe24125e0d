import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.testing import assert_close

from asyrp_lit.diffusion.ddim import compute_dir_xt, compute_pred_x0, compute_sigma, step_ddim, step_inversion
from asyrp_lit.diffusion.schedule import add_noise, gather_alpha_bar, make_alphas_cumprod

ALPHAS_CUMPROD = make_alphas_cumprod()


def alpha_bar(*t: int):
    return gather_alpha_bar(ALPHAS_CUMPROD, torch.tensor(t))


@pytest.fixture
def tensors():
    return torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_pred_x0_of_the_true_noise_is_x_0(tensors):
    x_0, eps, _ = tensors
    alpha_bar_t = alpha_bar(20, 600)
    assert_close(compute_pred_x0(add_noise(x_0, eps, alpha_bar_t), eps, alpha_bar_t), x_0, atol=1e-4, rtol=1e-4)


def test_pred_x0_is_not_clipped(tensors):
    assert compute_pred_x0(*tensors[:2], alpha_bar(999, 999)).abs().max() > 100


@pytest.mark.parametrize(("t", "t_prev"), [(25, 0), (999, 973), (500, 100)])
def test_swapping_the_alphas_inverts_a_step(tensors, t, t_prev):
    x_t, eps, _ = tensors.double()
    alpha_bar_t, alpha_bar_prev = alpha_bar(t, t).double(), alpha_bar(t_prev, t_prev).double()
    x_prev = step_ddim(x_t, eps, alpha_bar_t, alpha_bar_prev)
    assert_close(step_ddim(x_prev, eps, alpha_bar_prev, alpha_bar_t), x_t)
    assert_close(step_inversion(x_prev, eps, alpha_bar_prev, alpha_bar_t), x_t)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t", [999, 500, 24])
def test_step_agrees_with_diffusers_ddim(tensors, eta, t):
    x_t, eps, noise = tensors
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(40)
    expected = scheduler.step(eps, t, x_t, eta=eta, variance_noise=noise).prev_sample
    t_prev = max(t - 25, -1)
    actual = step_ddim(x_t, eps, alpha_bar(t, t), alpha_bar(t_prev, t_prev), eta, noise)
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("t", [1, 2, 100, 999])
def test_eta_1_has_the_variance_of_diffusers_ddpm(t):
    variance = compute_sigma(alpha_bar(t), alpha_bar(t - 1), 1.0).square().flatten()
    assert_close(variance[0], DDPMScheduler(variance_type="fixed_small")._get_variance(t), atol=0, rtol=1e-3)


def test_sigma_is_linear_in_eta_and_may_differ_by_sample():
    alpha_bar_t, alpha_bar_prev = alpha_bar(500, 500), alpha_bar(475, 475)
    ddpm = compute_sigma(alpha_bar_t, alpha_bar_prev, 1.0)[:1]
    sigma = compute_sigma(alpha_bar_t, alpha_bar_prev, torch.tensor([0.0, 0.5]).view(2, 1, 1, 1))
    assert_close(sigma, torch.cat([torch.zeros_like(ddpm), 0.5 * ddpm]))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_last_step_returns_pred_x0(tensors, eta):
    x_t, eps, noise = tensors
    x_prev = step_ddim(x_t, eps, alpha_bar(0, 0), alpha_bar(-1, -1), eta, noise)
    assert torch.equal(x_prev, compute_pred_x0(x_t, eps, alpha_bar(0, 0)))


def test_noise_budget_of_a_step_adds_up():
    alpha_bar_prev = alpha_bar(475)
    sigma = compute_sigma(alpha_bar(500), alpha_bar_prev, 0.7)
    one = torch.ones(1, 1, 1, 1)
    assert_close(compute_dir_xt(one, alpha_bar_prev, sigma).square() + sigma.square(), 1 - alpha_bar_prev)
