"""The training of a direction: what it costs, what it changes, and that an interruption changes nothing."""

from contextlib import suppress
from itertools import pairwise

import pytest
import torch
from lightning.pytorch import Callback
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import step_asyrp
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.losses.directional import directional_cosine, directional_loss, reconstruction_loss
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.callbacks import KeepState
from asyrp_lit.training.objective import LossRecipe
from asyrp_lit.training.slots import UpdateBatch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")
#: Edited timesteps of the tiny grid.
STEPS = 3


class Kill(Callback):
    """Stops a run as if it was killed: at a hook's n-th call, with nothing saved on the way out."""

    def __init__(self, hook, number=1):
        self.calls = number
        setattr(self, hook, self.count)

    def count(self, *args, **kwargs):
        self.calls -= 1
        if self.calls == 0:
            raise RuntimeError("killed")


def copy_weights(module):
    return {key: value.clone() for key, value in module.direction.state_dict().items()}


def fit(tiny, root, max_epochs=1, callbacks=(), resume=None, batch_size=2, cached=True, t_start=1000, **options):
    """A trained module; one that was killed comes back as it was."""
    module = tiny.make_module(**options)
    module.interval = module.interval._replace(t_start=t_start)
    trainer = tiny.make_trainer(max_epochs, callbacks)
    with suppress(RuntimeError):
        trainer.fit(module, tiny.make_data(root, batch_size, cached=cached), ckpt_path=resume, weights_only=True)
    return module


def read_batch(tiny, root, batch_size=3, cached=True):
    data = tiny.make_data(root, batch_size, cached=cached)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def test_every_timestep_of_every_batch_is_one_update(tiny, tmp_path):
    module = fit(tiny, tmp_path, max_epochs=2)
    assert module.trainer.num_training_batches == 3
    assert module.global_step == 2 * 3 * STEPS


def test_training_is_the_paper_s_loop(tiny, tmp_path):
    """One batch against the equations written out, with plain SGD."""
    batch, trained, plain = read_batch(tiny, tmp_path, 6, cached=False), tiny.make_module(), tiny.make_module()
    source_embeddings, x, x_source = plain.clip.encode_images(batch.x_0), batch.x_T, batch.x_T
    optimizer = torch.optim.SGD(plain.direction.parameters(), lr=0.1)
    for t, t_prev in pairwise([*plain.grid[:1:-1], plain.grid[1]]):
        alphas = [gather_alpha_bar(plain.alphas_cumprod, torch.full((6,), s)) for s in (t, t_prev)]
        bottleneck = plain.model.encode(x, torch.full((6,), t))
        delta_h = plain.direction(bottleneck.h, bottleneck.temb, torch.full((6,), t))
        eps, eps_edit = plain.model.decode(bottleneck), plain.model.decode(bottleneck, delta_h)
        eps_source = plain.model(x_source, torch.full((6,), t))
        pred_x0 = compute_pred_x0(x, eps_edit, alphas[0])
        cosine = directional_cosine(plain.clip.encode_images(pred_x0), source_embeddings, plain.text_direction)
        l1 = reconstruction_loss(pred_x0, compute_pred_x0(x_source, eps_source, alphas[0]))
        optimizer.zero_grad()
        (directional_loss(cosine, "log") + 3 * 0.9 * l1).mean().backward()
        optimizer.step()
        x, x_source = step_asyrp(x, eps, eps_edit, *alphas).detach(), step_ddim(x_source, eps_source, *alphas)
    trainer = tiny.make_trainer()
    trainer.fit(trained, torch.utils.data.DataLoader([batch], batch_size=None))
    assert_close(copy_weights(trained), copy_weights(plain), atol=1e-6, rtol=1e-5)


def test_frozen_networks_stay_as_they_are_and_get_no_gradient(tiny, tmp_path):
    before, module = tiny.make_module(), fit(tiny, tmp_path)
    assert module.model.fingerprint() == before.model.fingerprint()
    assert_close(module.clip.state_dict(), before.clip.state_dict(), atol=0, rtol=0)
    frozen = [*module.model.parameters(), *module.clip.parameters()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in frozen)
    assert not torch.equal(module.direction.conv2.weight, before.direction.conv2.weight)


@pytest.mark.parametrize(("cached", "encodes", "decodes"), [(True, 1, 2), (False, 2, 3)])
def test_passes_of_a_step_per_image(tiny, tmp_path, cached, encodes, decodes):
    module = fit(tiny, tmp_path, cached=cached)
    assert module.model.passes == {"encode": 6 * STEPS * encodes, "decode": 6 * STEPS * decodes}


def test_the_backward_pass_stops_at_the_decoder_s_input(tiny, tmp_path):
    """States are detached between steps: what reaches the direction comes from this timestep alone."""
    batch, module = read_batch(tiny, tmp_path), tiny.make_module()
    t, t_prev = module.train_steps[0]
    steps = torch.full((3,), t)
    alphas = [gather_alpha_bar(module.alphas_cumprod, torch.full((3,), s)) for s in (t, t_prev)]
    module.manual_backward = lambda loss: loss.backward()
    source = module.clip.encode_images(batch.x_0)
    x_next, _ = module._backward(UpdateBatch(batch.x_T, steps, *alphas, batch.pred_x0[:, 0], source), 1.0)
    assert not x_next.requires_grad
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.direction.parameters())


@pytest.mark.parametrize("clip_source", ["x_0", "pred_x0"])
def test_a_cached_source_trajectory_trains_the_same_f_t(tiny, tmp_path, clip_source):
    """Against float32 P_t; what the store's float16 changes is below."""
    batch, recipe = read_batch(tiny, tmp_path, 6, cached=False), LossRecipe(clip_source=clip_source)
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
        weights.append(copy_weights(module))
    assert_close(*weights, atol=1e-6, rtol=0)


def test_a_store_s_float16_source_trains_nearly_the_same_f_t(tiny, tmp_path):
    """An untrained network's P_t reach 300, so float16 is off by 0.1: the L1 term flips sign at 4 pixels in 10,000."""
    start, cached, computed = (
        torch.cat([value.flatten() for value in copy_weights(module).values()])
        for module in (tiny.make_module(), *(fit(tiny, tmp_path, lr=0.001, cached=cached) for cached in (True, False)))
    )
    assert 0 < (cached - computed).norm() < 0.02 * (computed - start).norm()


def test_p_t_that_a_store_keeps_below_t_edit_is_left_alone(tiny, tmp_path):
    batch, weights = read_batch(tiny, tmp_path, 6), []
    for pred_x0 in (batch.pred_x0, torch.cat([batch.pred_x0, torch.zeros(6, 1, 3, 16, 16)], dim=1)):
        module = tiny.make_module()
        loader = torch.utils.data.DataLoader([batch._replace(pred_x0=pred_x0)], batch_size=None)
        tiny.make_trainer().fit(module, loader)
        weights.append(copy_weights(module))
    assert_close(*weights, atol=0, rtol=0)


def test_the_loss_of_a_sample_depends_on_its_own_images_only(tiny, tmp_path):
    module = tiny.make_module()
    edit, source = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    embeddings = module.clip.encode_images(source.roll(1, -1))
    objective = module.compute_objective(edit, source, embeddings)
    order = torch.tensor([2, 0, 1])
    permuted = module.compute_objective(edit[order], source[order], embeddings[order])
    for part, permuted_part in zip(objective[:3], permuted[:3], strict=True):
        assert_close(part[order], permuted_part, atol=1e-6, rtol=1e-6)
        assert part.unique().numel() == 3
    assert not objective.keep.any()


def test_the_objective_is_the_weighted_sum_of_its_parts(tiny):
    module = tiny.make_module(recipe=LossRecipe(w_clip=0.8, w_l1=2.0))
    edit, source = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    objective = module.compute_objective(edit, source, module.clip.encode_images(source))
    assert_close(objective.l1, (edit - source).abs().flatten(1).mean(dim=1))
    assert_close(objective.total, 0.8 * objective.clip + 2.0 * 0.9 * objective.l1)


@pytest.mark.parametrize(("clip_source", "matters"), [("x_0", True), ("pred_x0", False)])
def test_the_clip_source_is_the_image_that_the_recipe_names(tiny, tmp_path, clip_source, matters):
    batch, weights = read_batch(tiny, tmp_path, 6), []
    for x_0 in (batch.x_0, -batch.x_0):
        module = tiny.make_module(recipe=LossRecipe(clip_source=clip_source))
        tiny.make_trainer().fit(module, torch.utils.data.DataLoader([batch._replace(x_0=x_0)], batch_size=None))
        weights.append(copy_weights(module)["conv2.weight"])
    assert torch.equal(*weights) is not matters


def test_a_clipped_gradient_moves_by_at_most_lr_times_the_norm(tiny, tmp_path):
    before, module = copy_weights(tiny.make_module()), fit(tiny, tmp_path, batch_size=6, grad_clip=1e-3)
    moved = sum((value - before[key]).norm() ** 2 for key, value in copy_weights(module).items()) ** 0.5
    assert 0 < moved <= STEPS * 0.1 * 1e-3 * 1.001


def test_checkpoints_hold_the_direction_alone(tiny, tmp_path):
    module = fit(tiny, tmp_path, callbacks=[KeepState(tmp_path / "last.ckpt")])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"direction.{key}" for key in module.direction.state_dict()}
    assert (tmp_path / "last.ckpt").stat().st_size < 100_000


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tiny, tmp_path):
    class Breaking(AsyrpModule):
        def compute_objective(self, *args):
            objective = super().compute_objective(*args)
            return objective._replace(total=objective.total * (float("nan") if self.global_step == 7 else 1.0))

    keep = KeepState(tmp_path / "last.ckpt")
    with pytest.raises(FloatingPointError, match=r"became nan after 7 updates; lower method\.optimizer\.lr"):
        tiny.make_trainer(callbacks=[keep]).fit(tiny.make_module(Breaking), tiny.make_data(tmp_path))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * STEPS
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("optimizer", "stagger", "skipped"),
    [
        (torch.optim.SGD, False, 0),
        (torch.optim.Adam, True, 0),
        (torch.optim.Adam, True, 1),
    ],
)
@pytest.mark.parametrize(
    ("hook", "number"),
    [
        ("on_train_batch_start", 2),
        ("on_train_batch_start", 3),
        ("on_train_epoch_end", 1),
        ("on_train_epoch_start", 2),
        ("on_train_batch_start", 5),
        ("on_validation_start", 1),
    ],
)
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tiny, tmp_path, hook, number, optimizer, stagger, skipped):
    last, options = tmp_path / "last.ckpt", {"max_epochs": 2, "optimizer": optimizer, "lr_decay": 0.5, "lr": 0.01}
    options |= {
        "stagger": stagger,
        "lr_final": 0.1,
        "t_start": tiny.make_module().grid[-1 - skipped],
    }
    updates = 6 * (STEPS - skipped)
    whole = fit(tiny, tmp_path, **options)
    killed = fit(tiny, tmp_path, callbacks=[KeepState(last), Kill(hook, number)], **options)
    resumed = fit(tiny, tmp_path, callbacks=[KeepState(last)], resume=last, **options)
    assert killed.global_step < updates or hook == "on_validation_start"
    assert resumed.global_step == whole.global_step == updates
    assert_close(copy_weights(resumed), copy_weights(whole), atol=0, rtol=0)


def test_a_run_killed_in_its_validation_still_reports_its_metrics(tiny, tmp_path):
    last, reports = tmp_path / "last.ckpt", []
    for kill, resume in (([], None), ([Kill("on_validation_start")], None), ([], last)):
        lpips = load_lpips()
        panel = MetricPanel(Judges(tiny.make_module().clip, lpips), torch.ones(1, 8))
        module = fit(tiny, tmp_path, callbacks=[KeepState(last), *kill], resume=resume, lr=0.01, panel=panel)
        reports.append({key: float(v) for key, v in module.trainer.callback_metrics.items() if key.startswith("val/")})
    assert reports[1] == {}
    assert reports[2] == reports[0]
    assert reports[0].keys() >= {"val/directional_cosine", "val/edit_lpips", "val/reconstruction_psnr"}


def test_pred_x0_kept_for_another_interval_are_refused(tiny, tmp_path):
    module = tiny.make_module()
    module.interval = module.interval._replace(t_edit=0)
    with pytest.raises(ValueError, match=r"training down to t_edit = 0 needs .*: fill a store for this interval"):
        tiny.make_trainer().fit(module, tiny.make_data(tmp_path))


def test_one_pass_and_one_more_are_two_passes(tiny, tmp_path):
    last, options = tmp_path / "last.ckpt", {"optimizer": torch.optim.Adam, "lr_decay": 0.5, "lr": 0.01}
    whole = fit(tiny, tmp_path, max_epochs=2, **options)
    fit(tiny, tmp_path, max_epochs=1, callbacks=[KeepState(last)], **options)
    resumed = fit(tiny, tmp_path, max_epochs=2, callbacks=[KeepState(last)], resume=last, **options)
    assert_close(copy_weights(resumed), copy_weights(whole), atol=0, rtol=0)


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

    fit(tiny, tmp_path, max_epochs=passes, callbacks=[Rates()], lr=0.06, **options)
    assert seen == pytest.approx(expected)


def test_a_resumed_run_takes_the_learning_rate_that_it_is_given(tiny, tmp_path):
    """The way out of a loss that is not finite."""
    last = tmp_path / "last.ckpt"
    fit(tiny, tmp_path, max_epochs=1, callbacks=[KeepState(last)], lr=0.08, lr_decay=0.5)
    resumed = fit(tiny, tmp_path, max_epochs=2, resume=last, lr=0.02, lr_decay=0.5)
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == 0.01


def test_weights_of_another_direction_are_refused(tiny):
    module = tiny.make_module()
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({"direction.conv1.weight": module.direction.conv1.weight})


def test_an_update_in_chunks_is_that_of_the_whole_batch(tiny, tmp_path):
    """Five images in chunks of two, the last one smaller."""
    weights = [copy_weights(fit(tiny, tmp_path, batch_size=5, chunk_size=size)) for size in (None, 2)]
    start = copy_weights(tiny.make_module())
    assert_close(weights[1], weights[0], atol=1e-6, rtol=0)
    assert all((weights[0][key] - start[key]).abs().max() > 1e-3 for key in start)


def test_a_wrong_way_of_training_is_refused(tiny):
    with pytest.raises(ValueError, match=r"method\.chunk_size must be null or at least 1, got 0"):
        tiny.make_module(chunk_size=0)


def test_trying_an_update_changes_nothing(tiny, tmp_path):
    module = tiny.make_module()
    before, state = copy_weights(module), torch.get_rng_state()
    module.try_update(3)
    assert module.model.passes == {"encode": 3, "decode": 6}
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(copy_weights(module), before, atol=0, rtol=0)
    assert all(parameter.grad is None for parameter in module.direction.parameters())
