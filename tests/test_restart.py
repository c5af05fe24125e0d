"""What stops a run and what comes after: the same command again, a second process, SIGTERM, half-written files."""

import shutil
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from asyrp_lit.data.latent_loader import ResumableLoader
from asyrp_lit.stages import lock
from asyrp_lit.stages.settings import list_differences
from asyrp_lit.training.state import KeepState, load_whole

ONCE = ("interval=all", "method.passes=1", "method.batch_size=1")
HOLD = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"


@pytest.fixture(scope="module")
def train(scripts, outputs):
    """Train in a folder, few steps on four portraits: ``train(RUN, *OVERRIDES)``."""
    common = (*scripts.tiny(outputs), *scripts.portraits, *ONCE)
    return lambda run, *overrides: scripts.run("train.py", *common, f"hydra.run.dir={run}", *overrides)


@pytest.fixture(scope="module")
def ended(train, outputs):
    """A run that SIGTERM ended after its first batch: its folder and outcome."""
    save = KeepState._save

    def save_and_stop(self, trainer):
        save(self, trainer)
        signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeepState, "_save", save_and_stop)
        return outputs / "ended", train(outputs / "ended")


@pytest.fixture
def stopped(ended, tmp_path):
    """A copy of that run's folder, with room beside it."""
    return shutil.copytree(ended[0], tmp_path / "stopped")


def test_a_folder_is_held_twice_by_one_process_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with lock.hold_folder(tmp_path), lock.hold_folder(Path(".")), lock.hold_folder(Path("link")):
        assert (tmp_path / ".lock").is_file()


def read_results(run):
    return [(run / name).read_bytes() for name in ("glasses.safetensors", "metrics.json")]


def test_sigterm_ends_a_training_in_order(ended):
    run, outcome = ended
    assert outcome.code == 143, outcome.text
    assert outcome.text.count("[ERROR]") == 1
    assert f"ended by SIGTERM; what was finished is kept, the same command with resume={run} goes on" in outcome.text
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
    assert not list(run.glob("*.safetensors")) + list(run.rglob("*.tmp")) + list(run.glob("error.log"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("way", [[], ["resume=auto"]], ids=["same folder", "auto"])
def test_the_same_command_goes_on_and_then_returns_at_once(stopped, whole, train, way):
    run = stopped
    outcome = train(run.with_name("later") if way else run, *way, "method.chunk_size=1")  # changes rounding at most
    assert outcome.code == 0, outcome.text
    assert f"going on in {run} from last.ckpt" in outcome.text
    assert read_results(run) == read_results(whole)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.suffix not in (".yaml", ".log")}
    assert "has finished before" in train(run).text
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()}.items() <= before.items()


def signal_after_saving(monkeypatch, number):
    """Send a signal as soon as the first batch is kept."""
    save, left = KeepState._save, [number]

    def save_and_signal(self, trainer):
        save(self, trainer)
        if left:
            signal.raise_signal(left.pop())

    monkeypatch.setattr(KeepState, "_save", save_and_signal)


def test_a_job_of_slurm_that_is_queued_again_in_the_middle_ends_as_a_whole_run(
    whole, train, tmp_path, slurm, monkeypatch
):
    run = tmp_path / "run"
    signal_after_saving(monkeypatch, signal.SIGUSR1)
    outcome = train(run)
    assert outcome.code == 0, outcome.text
    assert slurm.read_text() == "requeue 7\n"
    assert [path.name for path in run.rglob("*.ckpt")] == ["last.ckpt"]
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 16
    assert read_results(run) == read_results(whole)


@pytest.mark.parametrize("begun", [False, True], ids=["before the first batch", "after it"])
def test_a_state_that_an_earlier_version_kept_for_slurm_is_not_loaded(stopped, train, whole, slurm, begun):
    state = torch.load(stopped / "last.ckpt", weights_only=True)
    for value in state["state_dict"].values():
        value.add_(1)
    torch.save(state, stopped / "hpc_ckpt_1.ckpt")
    if not begun:
        (stopped / "last.ckpt").unlink()
    outcome = train(stopped)
    assert outcome.code == 0, outcome.text
    assert read_results(stopped) == read_results(whole)


def test_auto_starts_anew_where_no_run_of_these_settings_waits(stopped, train):
    run = stopped
    outcome = train(run.with_name("other"), "resume=auto", "seed=1")
    assert outcome.code == 0, outcome.text
    assert (run.with_name("other") / "metrics.json").is_file()
    assert not (run / "metrics.json").exists()


def test_auto_leaves_a_run_that_is_still_at_work_alone(stopped, train, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    run, other = stopped, stopped.with_name("other")
    command = [sys.executable, "-c", HOLD, str(run / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"1\n"
        outcome = train(other, "resume=auto")
        first.kill()
    assert outcome.code == 0, outcome.text
    assert f"passed over: another process is at work in {run}" in outcome.text
    assert (other / "metrics.json").is_file()
    assert not (run / "metrics.json").exists()


def test_a_folder_with_a_run_of_other_settings_is_refused_and_stays(whole, train):
    before, hydra = read_results(whole), (whole / ".hydra/overrides.yaml").read_text()
    outcome = train(whole, "method.passes=2", "seed=1", "latents.num_workers=0")
    assert outcome.code == 1
    assert "other settings (method.passes: 1 there, 2 asked for; seed: 0 there, 1 asked for): choose" in outcome.text
    assert read_results(whole) == before
    assert OmegaConf.create((whole / ".hydra/overrides.yaml").read_text()) == OmegaConf.create(hydra)
    assert OmegaConf.load(whole / ".hydra/config.yaml").seed == 0
    assert not (whole / "error.log").exists()  # its own run has not failed


def test_a_second_process_is_refused_and_the_first_folder_stays(whole, train, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    command = [sys.executable, "-c", HOLD, str(whole / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"1\n"
        outcome = train(whole)
        first.kill()
    assert outcome.code == 1
    assert outcome.text.count("[ERROR]") == 1
    assert f"another process is at work in {whole}" in outcome.text
    assert not (whole / "error.log").exists()
    assert train(whole).code == 0  # the lock ended with its process


@pytest.mark.slow
def test_the_same_sweep_skips_finished_jobs_and_does_the_rest(scripts, outputs, whole, tmp_path):
    common = ("-m", *scripts.tiny(outputs), *scripts.portraits, *ONCE, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert scripts.run("train.py", *common, "seed=0,1").code == 0
    first, second = tmp_path / "sweep/0", tmp_path / "sweep/1"
    expected = read_results(second)
    for path in (second / "metrics.json", second / "glasses.safetensors", second / "loss.png"):
        path.unlink()
    outcome = scripts.run("train.py", *common, "seed=0,1,2")
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("has finished before") == outcome.text.count("from last.ckpt") == 1
    assert (read_results(first), read_results(second)) == (read_results(whole), expected)
    assert (second / "loss.png").is_file()
    assert (tmp_path / "sweep/2/metrics.json").is_file()


def test_a_damaged_result_of_a_finished_run_is_made_again(whole, train):
    expected, direction = read_results(whole), whole / "glasses.safetensors"
    direction.write_bytes(direction.read_bytes()[:-1])
    outcome = train(whole)
    assert outcome.code == 0, outcome.text
    assert "glasses.safetensors is not a direction file of asyrp_lit" in outcome.text
    assert read_results(whole) == expected


def cut_off(content):
    return content[:-1000]


def flip(content):
    weights = torch.load(BytesIO(content), weights_only=True)["state_dict"]["direction.conv1.weight"].numpy().tobytes()
    place = content.index(weights)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut_off, flip, lambda content: b""], ids=["cut off", "a bit flipped", "empty"])
def test_a_damaged_checkpoint_is_refused(stopped, train, damage):
    checkpoint = stopped / "last.ckpt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    outcome = train(stopped)
    assert outcome.code == 1
    assert f"{checkpoint} cannot be resumed, it is damaged or half-written" in outcome.text
    assert outcome.text.count("[ERROR]") == 1


def test_a_checkpoint_is_refused_wherever_it_is_cut_off(stopped):
    checkpoint = stopped / "last.ckpt"
    content = checkpoint.read_bytes()
    assert load_whole(checkpoint)["global_step"] == 4
    for kept in (0, 1, 100, *range(1000, len(content), 1000), len(content) - 1):
        checkpoint.write_bytes(content[:kept])
        with pytest.raises(ValueError, match="is damaged or half-written"):
            load_whole(checkpoint)


@pytest.mark.parametrize("file", ["last.ckpt", "settings.yaml"])
def test_files_of_another_format_version_are_refused(stopped, train, file):
    run = stopped
    if file == "last.ckpt":
        state = torch.load(run / file, weights_only=True)
        assert state["format_version"] == 1
        torch.save(state | {"format_version": 2}, run / file)
    else:
        text = (run / file).read_text()
        (run / file).write_text(text.replace("format_version: 1", "format_version: 2"))
    outcome = train(run)
    assert outcome.code == 1
    assert f"{run / file} has format version 2, this asyrp_lit reads 1" in outcome.text


def test_a_checkpoint_without_a_version_counts_as_the_first(stopped, train, whole):
    run = stopped
    state = torch.load(run / "last.ckpt", weights_only=True)
    del state["format_version"]
    torch.save(state, run / "last.ckpt")
    assert train(run).code == 0
    assert read_results(run) == read_results(whole)


def test_a_run_goes_on_with_a_process_that_reads_ahead(stopped, train, whole, monkeypatch):
    workers, start = [], ResumableLoader.__init__
    monkeypatch.setattr(
        ResumableLoader,
        "__init__",
        lambda *args, **options: workers.append(options["num_workers"]) or start(*args, **options),
    )
    outcome = train(stopped, "latents.read_workers=1")
    assert outcome.code == 0, outcome.text
    assert set(workers) == {1}
    assert read_results(stopped) == read_results(whole)


@pytest.mark.parametrize("auto", [False, True], ids=["folder", "auto"])
def test_a_run_from_before_there_were_these_settings_goes_on(stopped, train, whole, auto):
    run, hydra = stopped, stopped / ".hydra/config.yaml"
    (run / "settings.yaml").unlink()
    settings = OmegaConf.load(hydra)
    del settings.method.chunk_size, settings.method.train_strengths, settings.method.init_from, settings.compile
    OmegaConf.save(settings, hydra)
    outcome = train(run.with_name("later"), "resume=auto" if auto else f"resume={run}")
    assert outcome.code == 0, outcome.text
    assert f"going on in {run} from last.ckpt" in outcome.text
    assert read_results(run) == read_results(whole)


def test_differences_leave_out_what_changes_no_result():
    there = OmegaConf.create({"seed": 0, "paths": {"outputs": "a"}, "method": {"lr": 0.1, "loss": {}}, "resume": None})
    asked = OmegaConf.create({"seed": 0, "paths": {"outputs": "b"}, "method": {"lr": 0.2}, "resume": "auto"})
    expected = ["method.loss: {} there, not set asked for", "method.lr: 0.1 there, 0.2 asked for"]
    assert list_differences(there, asked) == expected
    assert list_differences(there, there) == []
