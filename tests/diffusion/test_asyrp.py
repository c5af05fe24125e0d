from itertools import pairwise

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase, make_noise, step_asyrp
from asyrp_lit.diffusion.ddim import compute_dir_xt, compute_pred_x0, compute_sigma, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.models.hspace_unet import HSpaceUNet


def alpha_bar(t: int):
    return gather_alpha_bar(make_alphas_cumprod(), torch.full((2,), t))


@pytest.fixture
def tensors():
    return torch.randn(4, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return HSpaceUNet(unet)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize(("t", "t_prev"), [(999, 973), (25, 0), (0, -1)])
def test_equal_noises_give_ddim(tensors, eta, t, t_prev):
    x_t, eps, _, noise = tensors
    step = (alpha_bar(t), alpha_bar(t_prev), eta, noise)
    assert torch.equal(step_asyrp(x_t, eps, eps, *step), step_ddim(x_t, eps, *step))


def test_edit_enters_p_t_only(tensors):
    x_t, eps, eps_edit, noise = tensors
    alpha_bar_t, alpha_bar_prev = alpha_bar(500), alpha_bar(475)
    sigma = compute_sigma(alpha_bar_t, alpha_bar_prev, 1.0)
    expected = alpha_bar_prev.sqrt() * compute_pred_x0(x_t, eps_edit, alpha_bar_t)
    expected = expected + compute_dir_xt(eps, alpha_bar_prev, sigma) + sigma * noise
    torch.testing.assert_close(step_asyrp(x_t, eps, eps_edit, alpha_bar_t, alpha_bar_prev, 1.0, noise), expected)


def test_shifting_p_t_and_d_t_alike_nearly_cancels(network, tensors):
    """Asyrp, appendix C, at every step of an editing interval."""
    grid = make_time_grid(40)
    for t_prev, t in pairwise(grid[20:]):
        bottleneck = network.encode(tensors[0], torch.full((2,), t))
        eps, eps_edit = network.decode(bottleneck), network.decode(bottleneck, torch.ones_like(bottleneck.h))
        step = (alpha_bar(t), alpha_bar(t_prev))
        plain = step_ddim(tensors[0], eps, *step)
        symmetric = (step_ddim(tensors[0], eps_edit, *step) - plain).norm()
        asymmetric = (step_asyrp(tensors[0], eps, eps_edit, *step) - plain).norm()
        assert asymmetric > 1e-2
        assert symmetric < 0.25 * asymmetric


def test_phases_part_the_process_at_their_own_timesteps():
    t, interval = torch.tensor([999, 500, 499, 200, 199, 0]), Interval(t_edit=500, t_boost=200)
    assert in_editing_phase(t, interval).tolist() == [True, True, False, False, False, False]
    assert in_boosting_phase(t, interval).tolist() == [False, False, False, False, True, True]
    assert in_editing_phase(500, interval) is True


def test_zero_edits_to_the_end_and_never_boosts():
    t = torch.arange(1000)
    assert in_editing_phase(t, Interval(0, 0)).all()
    assert not in_boosting_phase(t, Interval(0, 0)).any()


def test_noise_of_a_seed_is_independent_of_its_batch():
    together = make_noise([3, 8, 5], 142, (3, 4, 4))
    assert torch.equal(together[1:2], make_noise([8], 142, (3, 4, 4)))
    assert torch.equal(together.flip(0), make_noise([5, 8, 3], 142, (3, 4, 4)))


def test_noise_differs_between_seeds_and_timesteps():
    first, second = make_noise([3, 4], 142, (3, 4, 4))
    assert not torch.equal(first, second)
    assert not torch.equal(first, make_noise([3], 117, (3, 4, 4))[0])


def test_noise_is_standard_normal():
    noise = make_noise(list(range(64)), 0, (3, 8, 8))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
