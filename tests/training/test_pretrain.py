import errno
import json
import warnings
from functools import partial
from importlib import import_module
from itertools import islice

import pytest
import torch
from diffusers import UNet2DModel
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.testing import assert_close

from asyrp_lit.data.avatars.dataset import PortraitBatch
from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.metrics.quality import judge_oracle
from asyrp_lit.stages.guard import quiet_libraries
from asyrp_lit.training.pretrain import EndlessOrder, fit_network, make_pretrain_loaders
from asyrp_lit.training.pretrain_diffusion import DiffusionPretrainer, multiscale_eps_loss, ramped_lr
from asyrp_lit.training.pretrain_readers import (
    CLIPPretrainer,
    OraclePretrainer,
)

quiet = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")
SCHEDULE = {"warmup": 2, "max_steps": 103, "decay_steps": 3}


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (60, 1.0), (80, 0.5), (100, 0.0), (120, 0.0)]
)
def test_the_learning_rate_warms_up_stays_and_falls_like_a_cosine(step, factor):
    assert ramped_lr(step, warmup=10, max_steps=100, decay_steps=40) == pytest.approx(factor)


def test_a_run_goes_on_with_more_steps_from_where_it_was_constant():
    constant = range(10, 61)
    assert [ramped_lr(s, 10, 100, 40) for s in constant] == [ramped_lr(s, 10, 300, 40) for s in constant]


def test_the_loss_of_one_scale_by_hand():
    """SNR 1 and 9: min(SNR, 5) / SNR is 1 and 5 / 9."""
    eps = torch.zeros(2, 3, 4, 4)
    loss = multiscale_eps_loss(eps + 2, eps, torch.tensor([0.5, 0.9]).view(2, 1, 1, 1), [1])
    assert_close(loss, torch.tensor([4.0, 4.0 * 5 / 9]))


def test_a_coarse_scale_sees_the_mean_error_alone_and_has_an_snr_of_its_own():
    """Over 4 x 4 squares the SNR of 1/4 is 4: weight 4; of 1 it is 16: weight 4 * 5 / 16."""
    eps = torch.zeros(2, 3, 4, 4)
    alternating = torch.ones(4, 4)
    alternating[:, ::2] = -1
    alpha_bar_t = torch.tensor([0.2, 0.5]).view(2, 1, 1, 1)
    assert_close(multiscale_eps_loss(eps + alternating, eps, alpha_bar_t, [4]), torch.zeros(2))
    loss = multiscale_eps_loss(eps + alternating + 0.5, eps, alpha_bar_t, [4])
    assert_close(loss, torch.tensor([4 * 0.25, 4 * 0.25 * 5 / 16]))
    both = multiscale_eps_loss(eps + alternating + 0.5, eps, alpha_bar_t, [1, 4])
    assert_close(both, loss + multiscale_eps_loss(eps + alternating + 0.5, eps, alpha_bar_t, [1]))


def make_pretrainer(**changes):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return DiffusionPretrainer(unet, lr=1e-3, **(SCHEDULE | changes))


def test_noise_jitter_varies_the_noise_of_every_image_and_its_target_alike(monkeypatch):
    batch = PortraitBatch(torch.zeros(64, 3, 16, 16), torch.zeros(64, 6), torch.arange(64))
    for jitter, spread in ((0.0, 0.0), (0.3, 0.3)):
        module, eps = make_pretrainer(noise_jitter=jitter), []
        monkeypatch.setattr(module, "_loss", lambda x_0, t, noise, eps=eps: eps.append(noise) or noise.mean())
        monkeypatch.setattr(module, "log", lambda *args, **kwargs: None)
        module.training_step(batch, 0)
        scales = eps[0].std(dim=(1, 2, 3))
        assert scales.mean().item() == pytest.approx(1, abs=0.1)
        assert scales.std().item() == pytest.approx(spread, abs=0.07)


def pretrain(module, root, folder, max_steps, **options):
    options = {"val_check_interval": 50, "precision": "32-true", "accelerator": "cpu"} | options
    size = 16 if isinstance(module, DiffusionPretrainer) else 64
    loaders = make_pretrain_loaders(size, 4, num_train=9, num_val=4, cache=root / "cache", seed=0)
    return fit_network(module, loaders, root / folder, max_steps, **options)


@quiet
def test_ctrl_c_is_raised_as_such(tmp_path, monkeypatch):
    """Lightning would exit with 1 on it, without a word of how to go on."""
    module = make_pretrainer()

    def press(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_loss", press)
    with pytest.raises(KeyboardInterrupt):
        pretrain(module, tmp_path, "run", 100)


@quiet
def test_a_run_ends_with_the_average_whose_decay_grows(tmp_path):
    """After the first update the weights themselves, then (1 + n) / (10 + n) of what was."""
    weights = {}
    for name, steps, decay in (("first", 1, None), ("second", 2, None), ("averaged", 2, 0.99), ("limited", 2, 0.1)):
        module = make_pretrainer()
        assert pretrain(module, tmp_path, name, steps, ema_decay=decay).global_step == steps
        weights[name] = module.unet.conv_in.weight
    assert_close(weights["averaged"], 2 / 11 * weights["first"] + 9 / 11 * weights["second"])
    assert_close(weights["limited"], 0.1 * weights["first"] + 0.9 * weights["second"])
    assert (weights["second"] - weights["first"]).abs().max() > 1e-4


def pass_for_lightnings(last):
    """Make a state look like those that Lightning's own callback kept in earlier versions."""
    state = torch.load(last, weights_only=True)
    assert state.pop("format_version") == 1
    kept = ModelCheckpoint(last.parent, filename="last", every_n_train_steps=100, enable_version_counter=False)
    state["callbacks"][kept.state_key] = kept.state_dict()
    torch.save(state, last)


def make_clip():
    torch.manual_seed(0)
    return CLIPPretrainer(0.5, 4, 0.5, lr=1e-3, **SCHEDULE)


def make_oracle():
    torch.manual_seed(0)
    return OraclePretrainer(1.0, lr=1e-3, **SCHEDULE)


def kill_at(step, module, monkeypatch):
    """A module of the same weights whose training ends before a step."""
    take_step = module.training_step

    def stop(batch, batch_idx):
        if module.global_step == step:
            raise RuntimeError("killed")
        return take_step(batch, batch_idx)

    monkeypatch.setattr(module, "training_step", stop)
    return module


@quiet
@pytest.mark.parametrize(
    ("make", "ema_decay", "change"),
    [
        (make_pretrainer, 0.99, lambda last: None),
        (make_pretrainer, 0.99, pass_for_lightnings),
        (make_clip, None, lambda last: None),
        (make_oracle, None, lambda last: None),
    ],
    ids=["unet", "state of an earlier version", "clip", "oracle"],
)
def test_a_killed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, make, ema_decay, change):
    """Weights, their average, optimiser and learning rate, from the state of step 5 within the third epoch."""
    monkeypatch.setattr("asyrp_lit.training.pretrain.STEPS_BETWEEN_STATES", 5)
    whole, killed, resumed = make(), kill_at(7, make(), monkeypatch), make()
    options = {"ema_decay": ema_decay, "val_check_interval": 4}
    pretrain(whole, tmp_path, "whole", 9, **options)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(killed, tmp_path, "killed", 9, **options)
    change(tmp_path / "killed" / "last.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Be aware that when using `ckpt_path`")
        with quiet_libraries():
            trainer = pretrain(resumed, tmp_path, "killed", 9, **options)
    assert trainer.global_step == 9
    assert_close(resumed.state_dict(), whole.state_dict(), atol=0, rtol=0)


def test_the_order_goes_on_within_its_epoch_and_is_of_all_images_in_each():
    order = EndlessOrder(5, seed=0)
    whole = list(islice(order, 15))
    assert [sorted(whole[first : first + 5]) for first in (0, 5, 10)] == [list(range(5))] * 3
    assert len({tuple(whole[first : first + 5]) for first in (0, 5, 10)}) > 1
    assert list(islice(EndlessOrder(5, seed=1), 15)) != whole
    order.start = 7
    assert list(islice(order, 8)) == whole[7:]


@quiet
def test_a_state_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    def fill_the_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    last = tmp_path / "run" / "last.ckpt"
    pretrain(make_pretrainer(), tmp_path, "run", 100)
    before = last.read_bytes()
    monkeypatch.setattr("asyrp_lit.files.os.fsync", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        pretrain(make_pretrainer(), tmp_path, "run", 200)
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.glob("*last*")] == ["last.ckpt"]


@quiet
def test_states_are_written_in_the_run_folder_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    pretrain(make_pretrainer(), tmp_path, "run", 100)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 100


@quiet
def test_a_state_of_another_network_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"state_dict": {"unet.other": torch.ones(1)}}, tmp_path / "run" / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be resumed with these settings"):
        pretrain(make_pretrainer(), tmp_path, "run", 2)


@pytest.mark.parametrize("script", ["pretrain.py", "export.py"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"], ids=["empty", "cut off"])
def test_a_damaged_state_is_refused_with_one_message(tmp_path, scripts, content, script):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(content)
    few = [f"network.data.{name}=2" for name in ("batch_size", "num_train", "num_val")]
    oracle = ("network=oracle_avatars", f"hydra.run.dir={tmp_path / 'run'}", f"paths.cache={tmp_path}", *few)
    outcome = scripts.run(script, *oracle, "accelerator=cpu")
    assert outcome.code == 1, outcome.text
    assert f"{tmp_path / 'run' / 'last.ckpt'} cannot be resumed, it is damaged or half-written" in outcome.text
    assert outcome.text.count("[ERROR]") == 1


@quiet
def test_a_run_that_shall_not_resume_starts_anew(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"of another network")
    assert pretrain(make_pretrainer(), tmp_path, "run", 2, resume=False).global_step == 2


@quiet
@pytest.mark.usefixtures("slurm")
def test_a_job_of_slurm_loads_no_state_of_lightnings_from_where_it_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for folder in (tmp_path, tmp_path / "run"):
        (folder / "hpc_ckpt_1.ckpt").write_bytes(b"of another run")
    assert pretrain(make_pretrainer(), tmp_path, "run", 2).global_step == 2


@quiet
@pytest.mark.parametrize("module", [make_clip, make_oracle])
def test_both_readers_take_a_step_and_judge_every_label(tmp_path, module):
    loaders = make_pretrain_loaders(64, 4, num_train=4, num_val=4, cache=tmp_path, seed=0)
    trainer = fit_network(module(), loaders, tmp_path, 1, 1, "32-true", accelerator="cpu")
    accuracies = [float(trainer.callback_metrics[f"val/{name}"]) for name in LABELS]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert all(parameter.requires_grad for parameter in trainer.lightning_module.network.parameters())


@quiet
def test_the_model_card_says_the_settings_of_the_run_and_not_those_of_export(tmp_path, scripts, monkeypatch):
    few = partial(judge_oracle, num_images=8)
    monkeypatch.setattr(import_module("asyrp_lit.stages.pretrain"), "judge_oracle", few)
    run = tmp_path / "run"
    oracle = ("network=oracle_avatars", f"hydra.run.dir={run}", f"paths.cache={tmp_path}", "accelerator=cpu")
    own = ("fit.max_steps=100", "fit.precision=32-true", "data.batch_size=2", "data.num_train=8", "data.num_val=2")
    made = scripts.run("pretrain.py", *oracle, *(f"network.{setting}" for setting in own))
    assert made.code == 0, made.text
    made = scripts.run("export.py", *oracle)
    assert made.code == 0, made.text
    card = json.loads((run / "export" / "card.json").read_text())
    assert (card["optimiser_steps"], card["images_seen"]) == (100, 200)
    assert card["recipe"]["module"]["max_steps"] == card["recipe"]["fit"]["max_steps"] == 100
    assert (card["recipe"]["fit"]["precision"], card["recipe"]["data"]["num_train"]) == ("32-true", 8)
