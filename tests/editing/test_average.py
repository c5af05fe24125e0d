import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.average import average_direction, average_timesteps
from asyrp_lit.editing.sample import sample_images

ALPHAS = make_alphas_cumprod()
GRID = make_time_grid(5)
INTERVAL = Interval(499, 300, t_start=749)


@pytest.fixture(name="x_T")
def draw_latents():
    return 0.01 * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_mean_is_that_of_what_f_t_proposes_on_the_edited_trajectories(model, direction, x_T):
    proposed = {}

    def remember(h, temb, t):
        delta_h = direction(h, temb, t)
        proposed[int(t[0])] = delta_h
        return delta_h

    sample_images(model, x_T, GRID, ALPHAS, remember, INTERVAL._replace(t_boost=0))
    mean = average_direction(model, x_T.split(3), GRID, ALPHAS, direction, INTERVAL)
    assert mean.timesteps.tolist() == [499, 749]
    for t, delta_h in zip((499, 749), mean.delta_h, strict=True):
        assert_close(delta_h, proposed[t].mean(dim=0), atol=1e-6, rtol=1e-5)
    assert_close(
        average_timesteps(mean).delta_h[0], (proposed[499] + proposed[749]).mean(dim=0) / 2, atol=1e-6, rtol=1e-5
    )


def test_averages_move_the_picture(model, direction, x_T):
    mean = average_direction(model, [x_T], GRID, ALPHAS, direction, INTERVAL)
    plain = sample_images(model, x_T, GRID, ALPHAS)
    edit = sample_images(model, x_T, GRID, ALPHAS, direction, INTERVAL)
    for averaged in (mean, average_timesteps(mean)):
        moved = sample_images(model, x_T, GRID, ALPHAS, averaged, INTERVAL)
        cosine = torch.nn.functional.cosine_similarity((moved - plain).flatten(), (edit - plain).flatten(), dim=0)
        assert cosine > 0.6


def test_it_costs_the_steps_down_to_t_edit(model, direction, x_T):
    model.passes.update(encode=0, decode=0)
    average_direction(model, [x_T], GRID, ALPHAS, direction, INTERVAL)
    assert model.passes == {"encode": 4 * 3, "decode": 4 * (1 + 2 + 2)}


def test_nothing_to_average_is_refused(model, direction, x_T):
    with pytest.raises(ValueError, match="nothing to average: 0 images, 2 timesteps"):
        average_direction(model, [], GRID, ALPHAS, direction, INTERVAL)
    with pytest.raises(ValueError, match="nothing to average: 4 images, 0 timesteps"):
        average_direction(model, [x_T], GRID, ALPHAS, direction, Interval(1000, 0))


def test_a_direction_in_eps_space_is_not_averaged(model, x_T):
    def propose(eps, temb, t):
        return eps

    propose.space = "eps"
    with pytest.raises(ValueError, match="only directions in h-space"):
        average_direction(model, [x_T], GRID, ALPHAS, propose, INTERVAL)
