"""An interruption changes nothing of a training, and what is wrong is not saved."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.testing import assert_close

from asyrp_lit.data.latent_loader import LatentDataset
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss
from asyrp_lit.training.state import KeepState

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


def test_checkpoints_hold_the_direction_alone(tiny, tmp_path):
    module = tiny.fit(tmp_path, callbacks=[KeepState(tmp_path / "last.ckpt")])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {f"direction.{key}" for key in module.direction.state_dict()}
    assert (tmp_path / "last.ckpt").stat().st_size < 100_000


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tiny, tmp_path):
    class Breaking(EditLoss):
        calls = 0

        def forward(self, *args):
            self.calls += 1
            objective = super().forward(*args)
            return objective._replace(total=objective.total * (float("nan") if self.calls == 8 else 1.0))

    keep = KeepState(tmp_path / "last.ckpt")
    with pytest.raises(FloatingPointError, match=r"became nan after 7 updates; lower method\.optimizer\.lr"):
        tiny.make_trainer(callbacks=[keep]).fit(tiny.make_module(loss=Breaking), tiny.make_data(tmp_path))
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
        "train_strengths": (0.5, 1.75) if stagger else (1.0, 1.0),
        "lr_final": 0.1,
        "t_start": tiny.make_module().grid[-1 - skipped],
    }
    updates = 6 * (STEPS - skipped)
    whole = tiny.fit(tmp_path, **options)
    killed = tiny.fit(tmp_path, callbacks=[KeepState(last), Kill(hook, number)], **options)
    resumed = tiny.fit(tmp_path, callbacks=[KeepState(last)], resume=last, **options)
    assert killed.global_step < updates or hook == "on_validation_start"
    assert resumed.global_step == whole.global_step == updates
    assert_close(tiny.copy_weights(resumed), tiny.copy_weights(whole), atol=0, rtol=0)


def test_a_state_from_before_there_were_strengths_goes_on_at_strength_1(tiny, tmp_path):
    last, options = tmp_path / "last.ckpt", {"max_epochs": 2, "stagger": True, "lr": 0.01}
    whole = tiny.fit(tmp_path, **options)
    tiny.fit(tmp_path, callbacks=[KeepState(last), Kill("on_train_batch_start", 3)], **options)
    state = torch.load(last, weights_only=True)
    del state["slots"]["strength"]
    torch.save(state, last)
    assert_close(
        tiny.copy_weights(tiny.fit(tmp_path, resume=last, **options)), tiny.copy_weights(whole), atol=0, rtol=0
    )


@pytest.mark.parametrize(("kept_before", "kept_after"), [(True, False), (False, True), (False, False)])
def test_images_on_their_way_have_their_own_p_t_whether_it_is_kept_or_not(
    tiny, tmp_path, kept_before, kept_after, caplog
):
    """Where P_t was kept their unedited states stayed behind: without it those images begin anew."""
    last, seen = tmp_path / "last.ckpt", []

    class Recording(AsyrpModule):
        def _train_slots(self, slots, stages, steps, previous):
            seen.append((slots.index, stages))
            return super()._train_slots(slots, stages, steps, previous)

        def _train_at(self, batch):
            seen.append(batch.pred_x0)
            return super()._train_at(batch)

    kill = [KeepState(last), Kill("on_train_batch_start", 3)]
    tiny.fit(tmp_path, callbacks=kill, cached=kept_before, stagger=True)
    tiny.fit(tmp_path, resume=last, cached=kept_after, stagger=True, cls=Recording)
    assert ("begin anew" in caplog.text) == (kept_before and not kept_after)
    data = tiny.make_data(tmp_path)
    data.setup("fit")
    kept = LatentDataset(data.stores["train"])
    assert len(seen) == 2 * STEPS
    for (index, stages), pred_x0 in zip(seen[::2], seen[1::2], strict=True):
        expected = kept[index.tolist()].pred_x0[torch.arange(2), stages]
        assert_close(pred_x0, expected, atol=2e-3, rtol=2e-3)


def test_other_train_images_leave_those_on_their_way(tiny, tmp_path, caplog):
    """Their places in the store are those of other images now; each slot gets one of the new ones."""
    last, seen = tmp_path / "last.ckpt", []

    class Recording(AsyrpModule):
        def _train_slots(self, slots, stages, steps, previous):
            seen.append(slots)
            return super()._train_slots(slots, stages, steps, previous)

    tiny.fit(tmp_path, max_epochs=1, callbacks=[KeepState(last)], stagger=True)
    state = torch.load(last, weights_only=True)
    assert state["slots_images"] == "0123"
    torch.save(state | {"slots_images": "of others"}, last)
    tiny.fit(tmp_path, max_epochs=2, resume=last, stagger=True, cls=Recording)
    assert "train images are others" in caplog.text
    assert not torch.equal(seen[0].x, state["slots"]["x"][0])


def test_images_on_their_way_in_two_processes_go_on_in_one(tiny, tmp_path):
    last, options = tmp_path / "last.ckpt", {"max_epochs": 2, "stagger": True, "lr": 0.01}
    whole = tiny.fit(tmp_path, **options)
    tiny.fit(tmp_path, callbacks=[KeepState(last), Kill("on_train_batch_start", 3)], **options)
    state = torch.load(last, weights_only=True)
    state["slots"] = {name: value.transpose(0, 1) for name, value in state["slots"].items()}  # (2 processes, 1 image)
    torch.save(state, last)
    assert_close(
        tiny.copy_weights(tiny.fit(tmp_path, resume=last, **options)), tiny.copy_weights(whole), atol=0, rtol=0
    )


def test_a_run_killed_in_its_validation_still_reports_its_metrics(tiny, tmp_path):
    last, reports = tmp_path / "last.ckpt", []
    for kill, resume in (([], None), ([Kill("on_validation_start")], None), ([], last)):
        lpips = load_lpips()
        panel = MetricPanel(Judges(tiny.make_module().loss.clip, lpips), torch.ones(1, 8))
        module = tiny.fit(tmp_path, callbacks=[KeepState(last), *kill], resume=resume, lr=0.01, panel=panel)
        reports.append({key: float(v) for key, v in module.trainer.callback_metrics.items() if key.startswith("val/")})
    assert reports[1] == {}
    assert reports[2] == reports[0]
    assert reports[0].keys() >= {"val/directional_cosine", "val/edit_lpips", "val/reconstruction_psnr"}


def test_one_pass_and_one_more_are_two_passes(tiny, tmp_path):
    last, options = tmp_path / "last.ckpt", {"optimizer": torch.optim.Adam, "lr_decay": 0.5, "lr": 0.01}
    whole = tiny.fit(tmp_path, max_epochs=2, **options)
    tiny.fit(tmp_path, max_epochs=1, callbacks=[KeepState(last)], **options)
    resumed = tiny.fit(tmp_path, max_epochs=2, callbacks=[KeepState(last)], resume=last, **options)
    assert_close(tiny.copy_weights(resumed), tiny.copy_weights(whole), atol=0, rtol=0)


def test_a_resumed_run_takes_the_learning_rate_that_it_is_given(tiny, tmp_path):
    """The way out of a loss that is not finite."""
    last = tmp_path / "last.ckpt"
    tiny.fit(tmp_path, max_epochs=1, callbacks=[KeepState(last)], lr=0.08, lr_decay=0.5)
    resumed = tiny.fit(tmp_path, max_epochs=2, resume=last, lr=0.02, lr_decay=0.5)
    assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == 0.01


class Counting(torch.optim.Adam):
    """Has in its groups what it finds on its way, as Prodigy and the schedule-free optimisers do."""

    def __init__(self, params, lr, weight_decay=0.0, betas=(0.9, 0.999)):
        super().__init__(params, lr, betas, weight_decay=weight_decay)
        self.param_groups[0]["k"] = 0

    def step(self, closure=None):
        self.param_groups[0]["k"] += 1
        return super().step(closure)


def test_a_resumed_run_takes_the_settings_of_the_optimiser_that_it_is_given_and_its_state(tiny, tmp_path):
    last, options = tmp_path / "last.ckpt", {"max_epochs": 2, "lr": 0.01, "lr_decay": 0.5}
    tiny.fit(tmp_path, callbacks=[KeepState(last), Kill("on_train_batch_start", 2)], optimizer=Counting, **options)
    changed = partial(Counting, weight_decay=10.0, betas=(0.1, 0.2))
    plain, decayed = (tiny.fit(tmp_path, resume=last, optimizer=kind, **options) for kind in (Counting, changed))
    group = decayed.trainer.optimizers[0].param_groups[0]
    assert [group[name] for name in ("weight_decay", "betas", "lr", "k")] == [10.0, (0.1, 0.2), 0.005, 6 * STEPS]
    sizes = [sum(float(w.abs().sum()) for w in tiny.copy_weights(module).values()) for module in (plain, decayed)]
    assert sizes[1] < 0.99 * sizes[0]


def test_settings_that_need_a_state_which_is_not_there_are_refused(tiny, tmp_path):
    last, adam = tmp_path / "last.ckpt", torch.optim.Adam
    tiny.fit(tmp_path, callbacks=[KeepState(last), Kill("on_train_batch_start", 2)], optimizer=adam)
    with pytest.raises(ValueError, match="state has no 'max_exp_avg_sq': resume with its settings as they were"):
        tiny.fit(tmp_path, resume=last, optimizer=partial(adam, amsgrad=True))


def test_weights_of_another_direction_are_refused(tiny):
    module = tiny.make_module()
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict({"direction.conv1.weight": module.direction.conv1.weight})
