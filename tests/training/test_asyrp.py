"""The training of a direction: what it costs, what it changes, and that an interruption changes nothing."""

from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import step_asyrp
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.losses.directional import directional_cosine, directional_loss, reconstruction_loss
from asyrp_lit.training.objective import LossRecipe
from asyrp_lit.training.slots import UpdateBatch
from asyrp_lit.training.strengths import draw_strengths

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")
#: Edited timesteps of the tiny grid.
STEPS = 3


def test_every_timestep_of_every_batch_is_one_update(tiny, tmp_path):
    module = tiny.fit(tmp_path, max_epochs=2)
    assert module.trainer.num_training_batches == 3
    assert module.global_step == 2 * 3 * STEPS


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.5, 1.75), (-1.5, 2.0)], ids=["paper", "strengths", "slider"])
def test_training_is_the_paper_s_loop(tiny, tmp_path, strengths):
    """One batch against the equations written out, with plain SGD; also with a strength for each image.

    Of a slider, images at a strength whose end they read as already get the L1 term alone, and others below 0 move
    against dT; the weight of 0 of what is read as before is the paper's.
    """
    slider = tiny.Ends() if strengths[0] < 0 else None
    batch, plain = tiny.read_batch(tmp_path, 6, cached=False), tiny.make_module()
    trained = tiny.make_module(train_strengths=strengths, contrast=slider)
    strength = draw_strengths(batch.index, 0, *strengths).view(6, 1, 1, 1)
    assert (strength.unique().numel() == 1) == (strengths == (1.0, 1.0))
    source_embeddings, x, x_source = plain.loss.clip.encode_images(batch.x_0), batch.x_T, batch.x_T
    way = torch.ones(6)
    if slider:
        has = source_embeddings[:, 3] > 0
        way = (strength.flatten() > 0).float() * ~has - (strength.flatten() < 0).float() * has
        assert set(way.tolist()) == {-1, 0, 1}
    optimizer = torch.optim.SGD(plain.direction.parameters(), lr=0.1)
    for t, t_prev in pairwise([*plain.grid[:1:-1], plain.grid[1]]):
        alphas = [gather_alpha_bar(plain.alphas_cumprod, torch.full((6,), s)) for s in (t, t_prev)]
        bottleneck = plain.model.encode(x, torch.full((6,), t))
        delta_h = plain.direction(bottleneck.h, bottleneck.temb, torch.full((6,), t))
        eps, eps_edit = plain.model.decode(bottleneck), plain.model.decode(bottleneck, strength * delta_h)
        eps_source = plain.model(x_source, torch.full((6,), t))
        pred_x0 = compute_pred_x0(x, eps_edit, alphas[0])
        cosine = directional_cosine(
            plain.loss.clip.encode_images(pred_x0), source_embeddings, plain.loss.text_direction
        )
        l1 = reconstruction_loss(pred_x0, compute_pred_x0(x_source, eps_source, alphas[0]))
        optimizer.zero_grad()
        (directional_loss(way * cosine, "log") + 3 * 0.9 * l1).mean().backward()
        optimizer.step()
        x, x_source = step_asyrp(x, eps, eps_edit, *alphas).detach(), step_ddim(x_source, eps_source, *alphas)
    trainer = tiny.make_trainer()
    trainer.fit(trained, torch.utils.data.DataLoader([batch], batch_size=None))
    assert_close(tiny.copy_weights(trained), tiny.copy_weights(plain), atol=1e-6, rtol=1e-5)


def test_an_image_s_strength_is_its_own_in_every_batch_and_another_in_every_pass():
    index = torch.arange(200)
    first, second = (draw_strengths(index, epoch, 0.5, 1.75) for epoch in (0, 1))
    order = torch.tensor([7, 3, 150])
    assert_close(draw_strengths(order, 0, 0.5, 1.75), first[order], atol=0, rtol=0)
    for strengths in (first, second):
        assert ((strengths >= 0.5) & (strengths < 1.75)).all()
        assert strengths.mean().item() == pytest.approx(1.125, abs=0.1)
    assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.2


def test_frozen_networks_stay_as_they_are_and_get_no_gradient(tiny, tmp_path):
    before, module = tiny.make_module(), tiny.fit(tmp_path)
    assert module.model.fingerprint() == before.model.fingerprint()
    assert_close(module.loss.clip.state_dict(), before.loss.clip.state_dict(), atol=0, rtol=0)
    frozen = [*module.model.parameters(), *module.loss.clip.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen)
    assert not torch.equal(module.direction.conv2.weight, before.direction.conv2.weight)


@pytest.mark.parametrize(("cached", "encodes", "decodes"), [(True, 1, 2), (False, 2, 3)])
def test_passes_of_a_step_per_image(tiny, tmp_path, cached, encodes, decodes):
    module = tiny.fit(tmp_path, cached=cached)
    assert module.model.passes == {"encode": 6 * STEPS * encodes, "decode": 6 * STEPS * decodes}


def test_the_backward_pass_stops_at_the_decoder_s_input(tiny, tmp_path):
    """States are detached between steps: what reaches the direction comes from this timestep alone."""
    batch, module = tiny.read_batch(tmp_path), tiny.make_module()
    t, t_prev = module.train_steps[0]
    steps = torch.full((3,), t)
    alphas = [gather_alpha_bar(module.alphas_cumprod, torch.full((3,), s)) for s in (t, t_prev)]
    module.manual_backward = lambda loss: loss.backward()
    source = module.loss.clip.encode_images(batch.x_0)
    update = UpdateBatch(batch.x_T, steps, *alphas, batch.pred_x0[:, 0], source, torch.ones(3, 1, 1, 1))
    x_next, _ = module._backward(update, 1.0)
    assert not x_next.requires_grad
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.direction.parameters())


@pytest.mark.parametrize("clip_source", ["x_0", "pred_x0"])
def test_a_cached_source_trajectory_trains_the_same_f_t(tiny, tmp_path, clip_source):
    """Against float32 P_t; what the store's float16 changes is below."""
    batch, recipe = tiny.read_batch(tmp_path, 6, cached=False), LossRecipe(clip_source=clip_source)
    module = tiny.make_module()
    x, found = batch.x_T, []
    for t, t_prev in module.train_steps:
        alphas = [gather_alpha_bar(module.alphas_cumprod, torch.full((6,), s)) for s in (t, t_prev)]
        eps = module.model(x, torch.full((6,), t))
        found.append(compute_pred_x0(x, eps, alphas[0]))
        x = step_ddim(x, eps, *alphas)
    weights = []
    for pred_x0 in (None, torch.stack(found, dim=1).detach()):
        module = tiny.make_module(recipe=recipe)
        loader = torch.utils.data.DataLoader([batch._replace(pred_x0=pred_x0)], batch_size=None)
        tiny.make_trainer().fit(module, loader)
        weights.append(tiny.copy_weights(module))
    assert_close(*weights, atol=1e-6, rtol=0)


def test_a_store_s_float16_source_trains_nearly_the_same_f_t(tiny, tmp_path):
    """An untrained network's P_t reach 300, so float16 is off by 0.1: the L1 term flips sign at 4 pixels in 10,000."""
    start, cached, computed = (
        torch.cat([value.flatten() for value in tiny.copy_weights(module).values()])
        for module in (tiny.make_module(), *(tiny.fit(tmp_path, lr=0.001, cached=cached) for cached in (True, False)))
    )
    assert 0 < (cached - computed).norm() < 0.02 * (computed - start).norm()


def test_p_t_that_a_store_keeps_below_t_edit_is_left_alone(tiny, tmp_path):
    batch, weights = tiny.read_batch(tmp_path, 6), []
    for pred_x0 in (batch.pred_x0, torch.cat([batch.pred_x0, torch.zeros(6, 1, 3, 16, 16)], dim=1)):
        module = tiny.make_module()
        loader = torch.utils.data.DataLoader([batch._replace(pred_x0=pred_x0)], batch_size=None)
        tiny.make_trainer().fit(module, loader)
        weights.append(tiny.copy_weights(module))
    assert_close(*weights, atol=0, rtol=0)


def test_the_loss_of_a_sample_depends_on_its_own_images_only(tiny, tmp_path):
    module = tiny.make_module()
    edit, source = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    embeddings = module.loss.clip.encode_images(source.roll(1, -1))
    objective = module.loss(edit, source, embeddings)
    order = torch.tensor([2, 0, 1])
    permuted = module.loss(edit[order], source[order], embeddings[order])
    for part, permuted_part in zip(objective[:3], permuted[:3], strict=True):
        assert_close(part[order], permuted_part, atol=1e-6, rtol=1e-6)
        assert part.unique().numel() == 3
    assert not objective.keep.any()


def test_the_objective_is_the_weighted_sum_of_its_parts(tiny):
    module = tiny.make_module(recipe=LossRecipe(w_clip=0.8, w_l1=2.0))
    edit, source = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    objective = module.loss(edit, source, module.loss.clip.encode_images(source))
    assert_close(objective.l1, (edit - source).abs().flatten(1).mean(dim=1))
    assert_close(objective.total, 0.8 * objective.clip + 2.0 * 0.9 * objective.l1)


@pytest.mark.parametrize(("clip_source", "matters"), [("x_0", True), ("pred_x0", False)])
def test_the_clip_source_is_the_image_that_the_recipe_names(tiny, tmp_path, clip_source, matters):
    batch, weights = tiny.read_batch(tmp_path, 6), []
    for x_0 in (batch.x_0, -batch.x_0):
        module = tiny.make_module(recipe=LossRecipe(clip_source=clip_source))
        tiny.make_trainer().fit(module, torch.utils.data.DataLoader([batch._replace(x_0=x_0)], batch_size=None))
        weights.append(tiny.copy_weights(module)["conv2.weight"])
    assert torch.equal(*weights) is not matters


def test_a_clipped_gradient_moves_by_at_most_lr_times_the_norm(tiny, tmp_path):
    before, module = tiny.copy_weights(tiny.make_module()), tiny.fit(tmp_path, batch_size=6, grad_clip=1e-3)
    moved = sum((value - before[key]).norm() ** 2 for key, value in tiny.copy_weights(module).items()) ** 0.5
    assert 0 < moved <= STEPS * 0.1 * 1e-3 * 1.001


def test_pred_x0_kept_for_another_interval_are_refused(tiny, tmp_path):
    module = tiny.make_module()
    module.interval = module.interval._replace(t_edit=0)
    with pytest.raises(ValueError, match=r"training down to t_edit = 0 needs .*: fill a store for this interval"):
        tiny.make_trainer().fit(module, tiny.make_data(tmp_path))


@pytest.mark.parametrize(
    ("passes", "options", "expected"),
    [
        (2, {"lr_final": 0.0}, [0.06, 0.05, 0.04, 0.03, 0.02, 0.01]),
        (3, {"lr_decay": 0.5}, [0.06] * 3 + [0.03] * 3 + [0.015] * 3),
    ],
)
def test_the_learning_rate_falls_linearly_to_its_last_value_or_once_per_pass(tiny, tmp_path, passes, options, expected):
    seen = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    tiny.fit(tmp_path, max_epochs=passes, callbacks=[Rates()], lr=0.06, **options)
    assert seen == pytest.approx(expected)


def test_an_update_in_chunks_is_that_of_the_whole_batch(tiny, tmp_path):
    """Five images in chunks of two, the last one smaller."""
    weights = [tiny.copy_weights(tiny.fit(tmp_path, batch_size=5, chunk_size=size)) for size in (None, 2)]
    start = tiny.copy_weights(tiny.make_module())
    assert_close(weights[1], weights[0], atol=1e-5, rtol=0)  # rounding alone reaches 1e-6
    assert all((weights[0][key] - start[key]).abs().max() > 1e-3 for key in start)


def test_a_wrong_way_of_training_is_refused(tiny):
    with pytest.raises(ValueError, match=r"method\.chunk_size must be null or at least 1, got 0"):
        tiny.make_module(chunk_size=0)


def test_trying_an_update_changes_nothing(tiny, tmp_path):
    module = tiny.make_module()
    before, state = tiny.copy_weights(module), torch.get_rng_state()
    module.try_update(3)
    assert module.model.passes == {"encode": 3, "decode": 6}
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(tiny.copy_weights(module), before, atol=0, rtol=0)
    assert all(parameter.grad is None for parameter in module.direction.parameters())
