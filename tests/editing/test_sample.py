from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval, make_noise, step_asyrp
from asyrp_lit.diffusion.ddim import step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.editing import sample as sample_module
from asyrp_lit.editing.sample import EDIT_ALWAYS, check_process, descend, sample_images
from asyrp_lit.hspace.combine import Combined, Scaled
from asyrp_lit.inversion.invert import invert_images

ALPHAS = make_alphas_cumprod()
#: 0, 249, 499, 749, 999.
GRID = make_time_grid(5)
#: At 499 it edits and boosts.
PHASES = Interval(t_edit=499, t_boost=500)


@pytest.fixture(name="x_T")
def draw_latents():
    """Small, for an untrained network takes no noise away and the way down to t = 0 enlarges by 157."""
    return 0.01 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def sample_plainly(model, x, interval=EDIT_ALWAYS, seeds=(0, 1, 2), direction=None):
    """The phases written out, one step after the other, each decode on its own."""
    with torch.no_grad():
        for t, t_prev in pairwise([*reversed(GRID), -1]):
            steps = torch.full((len(x),), t)
            alphas = [gather_alpha_bar(ALPHAS, s) for s in (steps, torch.full_like(steps, t_prev))]
            boosted = t < interval.t_boost and t_prev >= 0
            extra = (1.0, make_noise(list(seeds), t, tuple(x.shape[1:]))) if boosted else (0.0, None)
            bottleneck = model.encode(x, steps)
            eps = model.decode(bottleneck)
            if direction is None or t < interval.t_edit:
                x = step_ddim(x, eps, *alphas, *extra)
            else:
                eps_edit = model.decode(bottleneck, direction(bottleneck.h, bottleneck.temb, steps))
                x = step_asyrp(x, eps, eps_edit, *alphas, *extra)
    return x


def test_the_process_goes_down_to_the_clean_end():
    assert list(descend((0, 25, 51))) == [(51, 25), (25, 0), (0, -1)]


def test_without_a_direction_it_is_ddim(model, x_T):
    assert_close(sample_images(model, x_T, GRID, ALPHAS), sample_plainly(model, x_T), atol=1e-6, rtol=1e-6)


def test_strength_zero_is_ddim(model, direction, x_T):
    edit = sample_images(model, x_T, GRID, ALPHAS, Scaled(direction, 0.0))
    assert_close(edit, sample_images(model, x_T, GRID, ALPHAS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("interval", [PHASES, Interval(0, 0), Interval(500, 250), Interval(1000, 1000)])
def test_the_phases_are_the_paper_s(model, direction, x_T, interval):
    edit = sample_images(model, x_T, GRID, ALPHAS, direction, interval, [5, 6, 7])
    assert_close(edit, sample_plainly(model, x_T, interval, (5, 6, 7), direction), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("t_edit", "edited"), [(499, [999, 749, 499]), (500, [999, 749]), (0, list(GRID[::-1])), (1000, [])]
)
def test_an_edit_begins_at_t_edit_itself(model, x_T, t_edit, edited):
    seen = []

    def propose(h, temb, t):
        seen.append(int(t[0]))
        return torch.zeros_like(h)

    sample_images(model, x_T, GRID, ALPHAS, propose, Interval(t_edit, 0))
    assert seen == edited
    seen.clear()
    sample_images(model, x_T, GRID, ALPHAS, propose, Interval(t_edit, 0, t_start=749))
    assert seen == [t for t in edited if t <= 749]


@pytest.mark.parametrize(
    ("t_boost", "boosted"), [(499, [249]), (500, [499, 249]), (0, []), (1000, [999, 749, 499, 249])]
)
def test_boosting_ends_below_t_boost_and_never_adds_noise_to_the_last_step(model, x_T, monkeypatch, t_boost, boosted):
    seen = []

    def draw(seeds, t, shape):
        seen.append(t)
        return make_noise(seeds, t, shape)

    monkeypatch.setattr(sample_module, "make_noise", draw)
    sample_images(model, x_T, GRID, ALPHAS, None, Interval(1000, t_boost))
    assert seen == boosted


def test_an_image_does_not_depend_on_its_batch(model, direction, x_T):
    together = sample_images(model, x_T, GRID, ALPHAS, direction, PHASES, [11, 22, 33])
    order = torch.tensor([2, 0])
    apart = sample_images(model, x_T[order], GRID, ALPHAS, direction, PHASES, [33, 11])
    assert_close(apart, together[order], atol=1e-5, rtol=1e-5)


def test_seeds_matter_in_the_boosting_phase_only(model, direction, x_T):
    def sample(interval, seed):
        return sample_images(model, x_T[:1], GRID, ALPHAS, direction, interval, [seed])

    assert (sample(PHASES, 0) - sample(PHASES, 1)).abs().max() > 0.1
    assert torch.equal(sample(Interval(499, 0), 0), sample(Interval(499, 0), 1))


@pytest.mark.parametrize(("t_edit", "edited"), [(499, 3), (0, 5), (1000, 0)])
def test_passes_per_image_are_n_encodes_and_n_and_the_edited_decodes(model, direction, x_T, t_edit, edited):
    model.passes.update(encode=0, decode=0)
    sample_images(model, x_T, GRID, ALPHAS, direction, Interval(t_edit, 300))
    assert model.passes == {"encode": 3 * 5, "decode": 3 * (5 + edited)}


def test_what_is_inverted_and_sampled_comes_back_the_better_the_finer_the_grid(model):
    x_0 = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    errors = []
    for num_steps in (10, 40, 160):
        grid = make_time_grid(num_steps)
        x_T = invert_images(model, x_0, grid, ALPHAS).x_T
        errors.append(float((sample_images(model, x_T, grid, ALPHAS) - x_0).abs().mean()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.02


def test_a_symmetric_edit_is_ddim_with_the_edited_noise(model, direction, x_T):
    edit = sample_images(model, x_T, GRID, ALPHAS, direction, EDIT_ALWAYS, process="symmetric")
    x = x_T
    with torch.no_grad():
        for t, t_prev in descend(GRID):
            steps = torch.full((len(x),), t)
            alphas = [gather_alpha_bar(ALPHAS, s) for s in (steps, torch.full_like(steps, t_prev))]
            bottleneck = model.encode(x, steps)
            x = step_ddim(x, model.decode(bottleneck, direction(bottleneck.h, bottleneck.temb, steps)), *alphas)
    assert_close(edit, x, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edit, sample_images(model, x_T, GRID, ALPHAS, direction), atol=1e-3)


def test_a_direction_in_eps_space_adds_to_eps_without_a_decode(model, x_T):
    def propose(eps, temb, t):
        return 0.1 * eps

    propose.space = "eps"
    model.passes.update(encode=0, decode=0)
    edit = sample_images(model, x_T, GRID, ALPHAS, propose)
    assert model.passes == {"encode": 15, "decode": 15}
    x = x_T
    with torch.no_grad():
        for t, t_prev in descend(GRID):
            steps = torch.full((len(x),), t)
            alphas = [gather_alpha_bar(ALPHAS, s) for s in (steps, torch.full_like(steps, t_prev))]
            eps = model(x, steps)
            x = step_asyrp(x, eps, 1.1 * eps, *alphas)
    assert_close(edit, x, atol=1e-5, rtol=1e-5)


def add_to_x(value):
    """A direction of space x that adds ``value`` to every pixel."""

    def propose(x, temb, t):
        return torch.full_like(x, value)

    propose.space = "x"
    return propose


def test_a_direction_of_space_x_moves_x_t_by_the_change_of_eps_and_goes_on_unedited(model, x_T):
    edit = sample_images(model, x_T, GRID, ALPHAS, add_to_x(0.1), Interval(499, 0, 600))
    x = x_T
    with torch.no_grad():
        for t, t_prev in descend(GRID):
            steps = torch.full((len(x),), t)
            alphas = [gather_alpha_bar(ALPHAS, s) for s in (steps, torch.full_like(steps, t_prev))]
            x = x + model(x + 0.1, steps) - model(x, steps) if t == 499 else x
            x = step_ddim(x, model(x, steps), *alphas)
    assert_close(edit, x, atol=1e-5, rtol=1e-5)


def test_a_mask_keeps_v_of_a_direction_of_space_x_out_of_what_is_black(model, x_T):
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :5] = 1
    edit = sample_images(model, x_T, (999,), ALPHAS, Combined([add_to_x(0.1)], [(1,)], mask=mask))
    steps = torch.full((3,), 999)
    moved = x_T + model(x_T + 0.1 * mask, steps) - model(x_T, steps)
    assert_close(edit, sample_images(model, moved.detach(), (999,), ALPHAS), atol=1e-4, rtol=1e-5)


def test_copies_of_an_edit_in_x_part_at_its_step_and_strength_zero_is_ddim(model, x_T):
    model.passes.update(encode=0, decode=0)
    combined = Combined([add_to_x(0.1)], [(0,), (1,)])
    unedited, edit = sample_images(model, x_T, GRID, ALPHAS, combined, Interval(499, 0, 600)).chunk(2)
    assert model.passes["encode"] == 3 * (2 + 2 * (2 + 3))
    assert_close(unedited, sample_images(model, x_T, GRID, ALPHAS), atol=1e-5, rtol=1e-5)
    assert_close(edit, sample_images(model, x_T, GRID, ALPHAS, add_to_x(0.1), Interval(499, 0, 600)))


def test_an_unknown_process_is_refused():
    assert check_process("symmetric") == "symmetric"
    with pytest.raises(ValueError, match="process must be one of asymmetric, symmetric, got 'both'"):
        check_process("both")
