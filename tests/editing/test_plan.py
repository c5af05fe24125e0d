import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.plan import choose_joint, edit_latents, make_plan
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.strengths import make_loop
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.direction import DirectionInfo, make_direction


def describe(t_edit=499, t_boost=0, t_start=1000, num_steps=5, cos_text=None):
    loss = {} if cos_text is None else {"cos_text": cos_text}
    names = dict.fromkeys(("attribute", "src_text", "trg_text", "base_model", "base_fingerprint"), "any")
    return DirectionInfo(
        "f_t_ddpm", {}, **names, t_edit=t_edit, t_boost=t_boost, num_steps=num_steps, loss=loss, t_start=t_start
    )


@pytest.fixture(name="x_T")
def draw_latents():
    return 0.01 * torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_joint_interval_is_that_of_the_nearest_texts():
    near, far = describe(400, 100, cos_text=0.9), describe(500, 200, cos_text=0.5)
    assert choose_joint([far, near]) == 1
    assert choose_joint([describe(400, 100), far]) == 1


def test_directions_edit_each_in_its_own_interval_or_all_in_one(direction):
    loaded = [(direction, describe(499, 0, 749, cos_text=0.5)), (direction, describe(249, 100, 600, cos_text=0.9))]
    own = make_plan(loaded)
    assert own.intervals == (Interval(499, 0, 749), Interval(249, 100, 600))
    assert own.interval == Interval(249, 100, 749)
    joint = make_plan(loaded, own_intervals=False)
    assert (joint.intervals, joint.interval) == (None, Interval(249, 100, 600))


def test_overrides_hold_for_every_direction(direction):
    loaded = [(direction, describe(499, 300)), (direction, describe(249, 100))]
    plan = make_plan(loaded, t_edit=0, t_boost=0, t_start=700)
    assert plan.interval == Interval(0, 0, 700)
    assert plan.intervals == (Interval(0, 0, 700),) * 2


def test_another_number_of_steps_scales_delta_h(direction, model, x_T):
    plan = make_plan([(direction, describe(0, num_steps=10))], num_steps=5)
    edit = edit_latents(model, x_T, plan, [(1.0,)])
    twice = sample_images(model, x_T, plan.grid, make_alphas_cumprod(), Scaled(direction, 2.0))
    assert_close(edit, twice, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("num_steps", "step"), [(5, 499), (3, 499), (4, 666), (20, 525), (50, 509)])
def test_what_moves_x_does_so_once_and_as_it_is_on_any_grid(model, x_T, num_steps, step):
    arguments = {"h_channels": 16, "h_size": 8, "channels": 3, "image_size": 16, "step": 0.5}
    direction = make_direction("pullback", **arguments, transported=False, rank=1, iterations=1)
    direction.v.normal_(generator=torch.Generator().manual_seed(0))
    plan = make_plan([(direction, describe(t_edit=250, t_start=512, num_steps=5))], num_steps)
    assert plan.interval == Interval(step, 0, step)
    assert plan.directions[0].strength == 1.0
    assert step in plan.grid
    source, edit = edit_latents(model, x_T, plan, [None, (1.0,)]).chunk(2)
    assert not torch.equal(source, edit)


@pytest.mark.parametrize("changes", [{"t_edit": 300}, {"t_edit": 0}, {"t_start": 700}])
def test_what_moves_x_at_one_timestep_takes_no_interval(changes):
    arguments = {"h_channels": 16, "h_size": 8, "channels": 3, "image_size": 16, "step": 0.5}
    direction = make_direction("pullback", **arguments, transported=False, rank=1, iterations=1)
    loaded = [(direction, describe(t_edit=250, t_start=512, num_steps=5))]
    with pytest.raises(ValueError, match=r"moves x_t .pullback. does so at one timestep, 499 here: leave t_edit and"):
        make_plan(loaded, **changes)
    assert make_plan(loaded, t_boost=100).interval.t_boost == 100


def test_equal_strengths_and_a_strength_of_zero_cost_no_passes_of_their_own(direction, model, x_T):
    plan = make_plan([(direction, describe(499))])
    found, passes = [], []
    for rows in ([None, (0.5,), (1.0,)], [None, *make_loop([(0.0, 1.0)], 4), (-0.0,)]):
        model.passes.update(encode=0, decode=0)
        found.append(edit_latents(model, x_T, plan, rows).chunk(len(rows)))
        passes.append(dict(model.passes))
    assert passes[0] == passes[1]
    (plain, half, whole), loop = found
    assert_close(torch.cat(loop), torch.cat([plain, plain, half, whole, half, plain]), atol=0, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_every_combination_is_edited_as_alone(direction, model, x_T, batch_size):
    plan = make_plan([(direction, describe(499, 300)), (direction, describe(249))])
    rows = [None, (1.0, 0.0), (0.5, -1.0), (0.0, 0.0)]
    edits = edit_latents(model, x_T, plan, rows, [11, 22], batch_size).chunk(4)
    for row, images in zip(rows, edits, strict=True):
        assert_close(images, edit_latents(model, x_T, plan, [row], [11, 22]), atol=1e-5, rtol=1e-5)
    assert_close(edits[0], sample_images(model, x_T, plan.grid, make_alphas_cumprod()), atol=1e-5, rtol=1e-5)


def test_an_edit_that_overflows_is_named(direction, model, x_T):
    plan = make_plan([(direction, describe())])
    with pytest.raises(FloatingPointError, match=r"strengths \[1e\+30\] is no longer finite"):
        edit_latents(model, x_T, plan, [None, (1.0,), (1e30,)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_edit": 1000}, "no step edits: the interval is 1000 >= t >= t_edit = 1000"),
        ({"t_boost": -1}, "t_boost must be 0 to 1000, got -1"),
        ({"num_steps": 1}, "num_steps must be 2 to"),
        ({"process": "none"}, "process must be one of"),
    ],
)
def test_an_impossible_plan_is_refused(direction, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan([(direction, describe())], **changes)


def test_a_plan_needs_a_direction():
    with pytest.raises(ValueError, match="one direction or more"):
        make_plan([])
