"""What a run that goes on with other settings, by resume=FOLDER, takes over, refuses and leaves as it was."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from omegaconf import OmegaConf

from asyrp_lit.stages.read_runs import read_runs
from asyrp_lit.stages.settings import restore_hydra
from asyrp_lit.training.state import KeepState

TWO = ("trainer.devices=2", "+trainer.strategy=ddp", "+trainer.use_distributed_sampler=false")


@pytest.fixture(scope="module")
def train(scripts, outputs):
    """Train in a folder, few steps on four portraits in two batches: ``train(RUN, *OVERRIDES)``."""
    common = (*scripts.tiny(outputs), *scripts.portraits, "interval=all", "method.passes=1")
    return lambda run, *overrides: scripts.run("train.py", *common, f"hydra.run.dir={run}", *overrides)


@pytest.fixture(scope="module")
def twice(whole, train, outputs):
    """That run, gone on for a second pass."""
    run = shutil.copytree(whole, outputs / "twice")
    outcome = train(run, f"resume={run}", "method.passes=2")
    assert outcome.code == 0, outcome.text
    assert OmegaConf.load(run / "settings.yaml").settings.method.passes == 2
    return run


@pytest.fixture(scope="module")
def begun(train, outputs):
    """A run that Ctrl-C ended after its first batch."""
    save = KeepState._save

    def save_and_stop(self, trainer):
        save(self, trainer)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeepState, "_save", save_and_stop)
        assert train(outputs / "begun").code == 130
    return outputs / "begun"


@pytest.fixture
def stopped(begun, tmp_path):
    """A copy of its folder."""
    return shutil.copytree(begun, tmp_path / "stopped")


def read_results(run):
    return [(run / name).read_bytes() for name in ("glasses.safetensors", "metrics.json")]


def read_folder(run):
    """All that a run keeps, without its logs and without Hydra's note of the last start."""
    logs = {"error.log", "train.log", ".lock"}
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in logs]
    return {path: path.read_bytes() for path in files if not path.parent.name.startswith((".hydra", "log"))}


@pytest.mark.parametrize(
    ("start", "wrong", "message"),
    [
        ("run", ["method.optimizer.lr=-1"], "got -1; 5e-4 suits Adam"),
        ("start", ["method.optimizer.lr=1e38", "method.passes=2"], "the loss became"),
    ],
    ids=["refused", "its first batch fails"],
)
def test_a_resume_that_saves_no_state_changes_nothing(whole, train, start, wrong, message, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    before = read_folder(run)
    outcome = train(tmp_path / start, f"resume={run}", *wrong)
    assert outcome.code == 1
    assert message in outcome.text
    assert read_folder(run) == before
    assert OmegaConf.load(run / ".hydra/overrides.yaml") == OmegaConf.load(whole / ".hydra/overrides.yaml")
    assert "has finished before" in train(run).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method.optimizer._target_=torch.optim.SGD", "was started with another method.optimizer._target_; resume it"),
        ("method.passes=1", r"method.passes must be at least 2 to go on from RUN/last.ckpt, which has done 2, got 1"),
    ],
)
def test_a_finished_run_goes_on_neither_with_another_optimiser_nor_to_fewer_passes(
    twice, train, tmp_path, change, message
):
    run = twice
    before = read_results(run)
    outcome = train(tmp_path, f"resume={run}", "method.passes=2", change)
    assert outcome.code == 1
    assert message.replace("RUN", str(run)) in outcome.text
    assert "Traceback" not in outcome.text
    assert read_results(run) == before


def test_a_run_goes_on_with_the_settings_of_the_optimiser_that_its_folder_names(stopped, whole, train, tmp_path):
    changes = ("+method.optimizer.weight_decay=10", "+method.optimizer.betas=[0.1,0.2]")
    outcome = train(tmp_path / "start", f"resume={stopped}", *changes)
    assert outcome.code == 0, outcome.text
    group = torch.load(stopped / "last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][0]
    named = OmegaConf.load(stopped / "settings.yaml").settings.method.optimizer
    assert (named.weight_decay, list(named.betas)) == (group["weight_decay"], list(group["betas"])) == (10, [0.1, 0.2])
    assert read_results(stopped)[0] != read_results(whole)[0]


def test_a_run_stopped_within_its_second_pass_does_not_end_with_one(stopped, train, tmp_path):
    state = torch.load(stopped / "last.ckpt", weights_only=True)
    progress = state["loops"]["fit_loop"]["epoch_progress"]["current"]
    progress.update({name: value + 1 for name, value in progress.items()})
    torch.save(state, stopped / "last.ckpt")
    outcome = train(tmp_path / "start", f"resume={stopped}")
    assert outcome.code == 1
    assert "method.passes must be at least 2" in outcome.text
    assert "which has done 1 and a part of the next, got 1" in outcome.text


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (["method.batch_size=3"], "not of 3 times 1: give method.batch_size=2, with resume=RUN"),
        (["method.batch_size=2", *TWO], "not of 2 times 2: give method.batch_size=1, with resume=RUN"),
        (["method.batch_size=1", *TWO, "trainer.devices=3"], "not of 1 times 3: give processes that divide 2, with"),
    ],
    ids=["one process", "two", "three"],
)
def test_another_joint_batch_is_refused_with_the_batch_size_to_give(stopped, train, tmp_path, sizes, message):
    before = read_folder(stopped)
    outcome = train(tmp_path / "start", f"resume={stopped}", *sizes)
    assert outcome.code == 1
    assert outcome.text.count("[ERROR]") == 1
    expected = f"{stopped}/last.ckpt is of 2 images per update, method.batch_size times processes, {message}"
    assert expected.replace("RUN", str(stopped)) in outcome.text
    assert read_folder(stopped) == before


def test_another_number_of_images_within_a_pass_is_refused_before_any_is_inverted(stopped, train, tmp_path):
    state = torch.load(stopped / "last.ckpt", weights_only=True)
    state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["images"] = 5
    torch.save(state, stopped / "last.ckpt")
    before = read_folder(stopped)
    outcome = train(tmp_path / "start", f"resume={stopped}", f"paths.latents={tmp_path}/new")
    assert outcome.code == 1
    assert "last.ckpt stopped within a pass over 5 train images, and there are 4 now: have the same" in outcome.text
    assert read_folder(stopped) == before
    assert not (tmp_path / "new").exists()


def test_auto_is_the_joint_batch_of_the_run_that_goes_on(stopped, whole, train, tmp_path):
    outcome = train(tmp_path / "start", f"resume={stopped}", "method.batch_size=auto")
    assert outcome.code == 0, outcome.text
    assert "method.batch_size=auto: 2" in outcome.text
    assert OmegaConf.load(stopped / "settings.yaml").settings.method.batch_size == "auto"
    assert read_results(stopped) == read_results(whole)


@pytest.mark.slow
def test_a_run_goes_from_one_process_to_two_and_back(stopped, train, tmp_path, scripts, outputs):
    common = (*scripts.tiny(outputs), *scripts.portraits, "interval=all", "method.passes=1", "method.batch_size=1")
    places = (f"hydra.run.dir={tmp_path / 'start'}", f"resume={stopped}")
    command = [sys.executable, scripts.root / "train.py", *common, *TWO, *places]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.load(stopped / "last.ckpt", weights_only=True)["batch_size"] == 1
    outcome = train(tmp_path / "back", f"resume={stopped}", "method.passes=2", "method.batch_size=2")
    assert outcome.code == 0, outcome.text
    assert torch.load(stopped / "last.ckpt", weights_only=True)["global_step"] == 4 * 4


def test_hydras_files_and_the_report_are_of_the_settings_that_a_run_went_on_with(whole, twice, outputs):
    rows = {row.name: row for row in read_runs(outputs, [])}
    assert rows["twice"].settings["method.passes"] == "2"
    assert "resume" not in rows["twice"].settings
    assert OmegaConf.load(twice / ".hydra/config.yaml").method.passes == 2
    assert OmegaConf.load(twice / "settings.yaml").started == OmegaConf.load(whole / "settings.yaml").started
    assert rows["twice"].minutes > rows["whole"].minutes


def test_hydra_is_not_put_back_where_it_wrote_nothing(whole, tmp_path):
    shutil.copy(whole / "settings.yaml", tmp_path)
    restore_hydra(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]
