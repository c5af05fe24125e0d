"""Staggered training: which image is at which timestep, from the first update on."""

import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.ddim import step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.slots import Slots, advance_unedited, choose_offsets

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")
#: Edited timesteps of the tiny grid.
STEPS = 3


def test_staggered_images_enter_one_after_the_other_and_all_go_down_to_t_edit(tiny, tmp_path):
    """Three slots and three timesteps: at every update one image of each timestep, and every image sees all three."""
    seen = []

    class Recording(AsyrpModule):
        def _train_slots(self, slots, stages, steps, previous):
            seen.append(list(zip(slots.index.tolist(), steps.tolist(), strict=True)))
            return super()._train_slots(slots, stages, steps, previous)

    module = tiny.make_module(Recording, stagger=True)
    tiny.make_trainer().fit(module, tiny.make_data(tmp_path, 3))
    timesteps = [t for t, _ in module.train_steps]
    assert len(seen) == 2 * STEPS
    assert all(sorted(t for _, t in update) == sorted(timesteps) for update in seen)
    first, second = ([index for index, _ in seen[k]] for k in (0, STEPS))
    journeys = [[dict(update).get(index) for update in seen] for index in (*first, *second)]
    # Slots 1 and 2 begin with their images on the way and take them in again when they get to them.
    assert journeys[0][:3] == timesteps
    assert journeys[1] == [timesteps[1], timesteps[2], timesteps[0], timesteps[1], timesteps[2], None]
    assert journeys[2] == [timesteps[2], timesteps[0], timesteps[1], timesteps[2], None, None]
    assert journeys[3] == [None, None, None, *timesteps]


@pytest.mark.parametrize("cached", [True, False])
def test_staggered_images_begin_on_their_unedited_trajectory(tiny, tmp_path, cached):
    data, module = tiny.make_data(tmp_path, 3, cached=cached), tiny.make_module()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    t, t_prev = torch.tensor(module.train_steps).unbind(dim=1)
    slots = Slots.start(batch, torch.zeros(3, 8), torch.ones(3))
    advanced = advance_unedited(slots, torch.arange(3), t, t_prev, module.alphas_cumprod, module.model)
    x, states = batch.x_T, [batch.x_T]
    for k in range(2):
        alphas = [gather_alpha_bar(module.alphas_cumprod, steps[k].expand(3)) for steps in (t, t_prev)]
        x = step_ddim(x, module.model(x, t[k].expand(3)), *alphas)
        states.append(x)
    expected = torch.stack([states[i][i] for i in range(3)])
    assert_close(advanced.x, expected, atol=1e-3 if cached else 1e-6, rtol=1e-3 if cached else 0)
    assert module.model.passes["encode"] == (6 if cached else 12)


@pytest.mark.parametrize(("cached", "extra"), [(True, 0), (False, 6)])
def test_training_begins_at_t_start_where_the_unedited_trajectory_is(tiny, tmp_path, cached, extra):
    """One of three timesteps is noisier than t_start; with P_t kept, getting past it takes no pass."""
    seen = []

    class Recording(AsyrpModule):
        def _train_at(self, batch):
            seen.append((batch.x, batch.t, batch.pred_x0))
            return super()._train_at(batch)

    data, module = tiny.make_data(tmp_path, 6, cached=cached), tiny.make_module(Recording)
    grid = module.grid
    module.interval = module.interval._replace(t_start=grid[3])
    tiny.make_trainer().fit(module, data)
    assert [int(steps[0]) for _, steps, _ in seen] == [grid[3], grid[2]]
    assert module.model.passes["encode"] == 6 * 2 + (0 if cached else 6 * 2) + extra
    batch = next(iter(data.train_dataloader()))
    alphas = [gather_alpha_bar(module.alphas_cumprod, torch.full((6,), t)) for t in (grid[4], grid[3])]
    start = step_ddim(batch.x_T, module.model(batch.x_T, torch.full((6,), grid[4])), *alphas)
    order = [int((start - x).flatten(1).norm(dim=1).argmin()) for x in seen[0][0]]
    assert sorted(order) == list(range(6))
    assert_close(seen[0][0], start[order], atol=1e-3 if cached else 1e-6, rtol=1e-3 if cached else 0)
    if cached:
        assert_close(seen[0][2], batch.pred_x0[order, 1], atol=0, rtol=0)


def test_staggered_training_takes_the_same_passes(tiny, tmp_path):
    module = tiny.make_module(stagger=True)
    tiny.make_trainer().fit(module, tiny.make_data(tmp_path))
    assert module.model.passes == {"encode": 6 * STEPS, "decode": 2 * 6 * STEPS}
    assert module.global_step == 3 * STEPS


def test_slots_of_several_processes_are_those_of_one():
    together = choose_offsets(8, 26).tolist()
    assert together == [0, 3, 6, 9, 13, 16, 19, 22]
    assert [choose_offsets(4, 26, rank, 2).tolist() for rank in (0, 1)] == [together[::2], together[1::2]]
