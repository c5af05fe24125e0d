"""Sweeps of ``train.py`` on four portraits, four steps and a random network."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import torch
import wandb
from omegaconf import OmegaConf

import asyrp_lit.stages.build
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.hspace.direction import read_direction_info
from asyrp_lit.stages import frozen
from asyrp_lit.training.asyrp import AsyrpModule

ONCE = ("method.passes=1", "interval=all")


@pytest.fixture(scope="module")
def tiny(scripts):
    """Overrides for four portraits, a random network and outputs in a folder."""
    return lambda outputs: (*scripts.tiny(outputs), *scripts.portraits)


@pytest.fixture
def sweep(scripts, tiny, tmp_path):
    """Run a sweep into ``tmp_path/sweep``: ``sweep(*OVERRIDES)``."""
    return lambda *overrides: scripts.run(
        "train.py", "-m", *tiny(tmp_path), f"hydra.sweep.dir={tmp_path / 'sweep'}", *overrides
    )


def read_metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def loads(monkeypatch):
    """How often U-Net and CLIP are loaded from now on, with nothing kept from earlier tests."""
    monkeypatch.setattr(frozen, "_KEPT", {})
    counts = {"unet": mock.Mock(side_effect=asyrp_lit.stages.build.instantiate)}
    counts["clip"] = mock.Mock(side_effect=asyrp_lit.stages.build.load_clip)
    monkeypatch.setattr(asyrp_lit.stages.build, "instantiate", counts["unet"])
    monkeypatch.setattr(asyrp_lit.stages.build, "load_clip", counts["clip"])
    return lambda: {name: count.call_count for name, count in counts.items()}


def test_jobs_of_one_process_share_networks_latents_and_curves(sweep, scripts, tiny, loads, tmp_path):
    rates = "method.optimizer.lr=1e-3,5e-4"
    thresholds = ("method.passes=1", "interval=measured", "interval.edit_threshold=0.3", "interval.num_images=2")
    outcome = sweep(rates, *thresholds)
    assert outcome.code == 0, outcome.text
    assert loads() == {"unet": 1, "clip": 1}
    assert outcome.text.count("inverting into") == outcome.text.count("reusing the latents") == 2
    assert outcome.text.replace("\r", "\n").count("LPIPS curves: 100%") == 1
    frozen._KEPT.clear()
    alone = ("method.optimizer.lr=5e-4", *thresholds, f"hydra.run.dir={tmp_path / 'alone'}")
    assert scripts.run("train.py", *tiny(tmp_path / "other"), *alone).code == 0
    first, second, lone = (tmp_path / name / "glasses.safetensors" for name in ("sweep/0", "sweep/1", "alone"))
    assert second.read_bytes() == lone.read_bytes() != first.read_bytes()


def test_a_sweep_keeps_no_module_of_its_jobs(sweep):
    def count():
        gc.collect()
        return sum(type(thing) is AsyrpModule for thing in gc.get_objects())

    before = count()
    assert sweep("seed=0,1", *ONCE).code == 0
    assert count() <= before


def test_a_network_is_loaded_anew_for_other_settings_or_after_a_cast(monkeypatch):
    monkeypatch.setattr(frozen, "_KEPT", {})
    load = mock.Mock(side_effect=lambda: torch.nn.Linear(2, 2))
    first = frozen.share_frozen("unet", ["a"], load)
    assert frozen.share_frozen("unet", ["a"], load) is first
    other = frozen.share_frozen("unet", ["b"], load)
    assert frozen.share_frozen("clip", ["b"], load) is not other
    other.bfloat16()
    assert frozen.share_frozen("unet", ["b"], load).weight.dtype == torch.float32
    assert load.call_count == 4
    assert len(frozen._KEPT) == 2


def test_a_job_that_fails_leaves_the_others_alone_and_the_sweep_fails(sweep, tmp_path):
    outcome = sweep("method.optimizer.lr=-1,5e-4", *ONCE)
    assert outcome.code == 1
    assert "Traceback" not in outcome.text
    assert outcome.text.count("method.optimizer.lr must be a finite number above 0, got -1") == 2  # job and sweep
    assert "ValueError" in (tmp_path / "sweep/0/error.log").read_text()
    assert (tmp_path / "sweep/1/metrics.json").is_file()


def test_optuna_finds_the_trials_that_no_other_beats(sweep, tmp_path):
    outcome = sweep("search=optuna", "hydra.sweeper.n_trials=3", *ONCE)
    assert outcome.code == 0, outcome.text
    runs = [tmp_path / "sweep" / str(number) for number in range(3)]
    strengths = [OmegaConf.load(run / ".hydra/config.yaml").judged for run in runs]
    assert len(set(strengths)) == 3
    assert all(0.5 <= strength <= 1.5 for strength in strengths)
    points = [[read_metrics(run)[name] for name in ("success", "preservation")] for run in runs]
    best = OmegaConf.load(tmp_path / "sweep/optimization_results.yaml").solutions
    assert all(list(solution["values"]) in points for solution in best)
    assert max(points) in [list(solution["values"]) for solution in best]


def test_optuna_goes_on_after_a_trial_that_fails(sweep, tmp_path):
    lr = "method.optimizer.lr=choice(-1,5e-4)"
    outcome = sweep("search=optuna", "hydra.sweeper.n_trials=3", lr, *ONCE)
    assert outcome.code == 0, outcome.text
    states = [(tmp_path / f"sweep/{number}/metrics.json").is_file() for number in range(3)]
    assert set(states) == {True, False}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective=[success,beauty]"],
            "objective must be null or a list of metrics of this run (directional_cosine,",
        ),
        (["objective=[success]", "attr=young"], "need portraits and an attribute with labels"),
        (["objective=success"], "got success;"),
        (["objective=[]"], "got []"),
        (["judged=0"], "judged must be a finite strength other than 0, got 0"),
        (["judged=strong"], "got 'strong'"),
    ],
)
def test_an_objective_that_is_not_measured_is_refused_before_training(scripts, tiny, tmp_path, overrides, message):
    outcome = scripts.run("train.py", *tiny(tmp_path), *ONCE, f"hydra.run.dir={tmp_path / 'run'}", *overrides)
    assert outcome.code == 1
    assert message in outcome.text
    assert outcome.text.count("[ERROR]") == 1
    assert not list(tmp_path.rglob("last.ckpt"))


def test_a_run_is_judged_at_the_strength_that_is_asked_for(scripts, tiny, tmp_path):
    run = tmp_path / "run"
    options = (*tiny(tmp_path), *ONCE, "method=free_global", "method.optimizer.lr=0.1")
    assert scripts.run("train.py", *options, "judged=-0.3", f"hydra.run.dir={run}").code == 0
    direction = run / "glasses.safetensors"
    evaluation = (f"direction={direction}", "strengths=[-0.3,1]", f"hydra.run.dir={tmp_path / 'evaluated'}")
    assert scripts.run("evaluate.py", *options, *evaluation).code == 0
    measured, expected = read_metrics(run), read_metrics(tmp_path / "evaluated")
    away = {strength: abs(measured["edit_lpips"] - values["edit_lpips"]) for strength, values in expected.items()}
    assert 10 * away["-0.3"] < away["1"]
    assert read_direction_info(direction).loss["judged"] == -0.3


def test_wandb_groups_the_runs_of_a_sweep(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_SILENT", "true")
    started = mock.Mock(side_effect=wandb.init)
    monkeypatch.setattr(wandb, "init", started)
    outcome = sweep("seed=0,1", "logger=wandb", "logger.wandb.offline=true", *ONCE)
    assert outcome.code == 0, outcome.text
    assert [call.kwargs["group"] for call in started.call_args_list] == ["sweep", "sweep"]
    assert len(list(tmp_path.glob("sweep/*/wandb/offline-run-*/*.wandb"))) == 2


def test_a_run_that_fails_leaves_no_wandb_run_open(scripts, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = ("logger=wandb", "logger.wandb.offline=true", "method.optimizer.lr=1e30", *ONCE)
    assert scripts.run("train.py", *tiny(tmp_path), *options, f"hydra.run.dir={tmp_path / 'run'}").code == 1
    assert wandb.run is None


def test_a_job_of_slurm_is_the_command_of_its_worker(scripts, tmp_path):
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate
    from submitit.slurm.slurm import _make_sbatch_string

    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"]
    with initialize_config_dir(str(scripts.root / "conf"), version_base="1.3"):
        launcher = compose("train", overrides, return_hydra_config=True).hydra.launcher
    assert instantiate(launcher, submitit_folder=str(tmp_path)).params["timeout_min"] == 60
    values = {name: launcher[name] for name in ("partition", "gpus_per_node")}
    script = _make_sbatch_string(command="worker", folder=tmp_path, time=launcher.timeout_min, **values)
    assert {"#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --time=60"} <= set(script.splitlines())


@pytest.fixture
def start(scripts, tiny):
    """Start a script as a process of its own, its output in a file: ``start(LOG, NAME, *OVERRIDES)``."""
    processes = []

    def start(log, name, *overrides):
        command = [sys.executable, str(scripts.root / name), *map(str, overrides)]
        with log.open("wb") as output:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


#: Enough to invert for seconds, so that a process can be stopped while it does.
MANY = ("data.train.num_images=32", "method.num_steps=60", "inversion_batch_size=2")
WAITING = "waiting for another process that is filling"


@pytest.fixture
def start_two(start, tiny, tmp_path):
    """Start ``invert.py`` twice at once on no store; when one waits for the other: both, and both logs, holder first.

    The holder is stopped meanwhile, so that it still holds the lock however long the other takes to start.
    """

    def start_two():
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        both = [start(log, "invert.py", *tiny(tmp_path), *MANY, f"hydra.run.dir={log}.run") for log in logs]
        while not any("inverting into" in log.read_text(errors="replace") for log in logs):
            assert all(process.poll() is None for process in both)
            time.sleep(0.01)
        holder = 0 if "inverting into" in logs[0].read_text(errors="replace") else 1
        both[holder].send_signal(signal.SIGSTOP)
        while WAITING not in logs[1 - holder].read_text(errors="replace"):
            assert both[1 - holder].poll() is None, logs[1 - holder].read_text(errors="replace")
            time.sleep(0.01)
        return both[holder], both[1 - holder], logs[holder], logs[1 - holder]

    return start_two


@pytest.mark.slow
def test_of_two_processes_that_start_at_once_one_fills_the_store_and_the_other_reads_it(start_two, tmp_path):
    holder, waiter, *logs = start_two()
    holder.send_signal(signal.SIGCONT)
    assert (holder.wait(), waiter.wait()) == (0, 0)
    texts = [log.read_text() for log in logs]
    assert [text.count("inverting into") + text.count("reusing the latents") for text in texts] == [2, 2]
    assert sum(text.count("inverting into") for text in texts) == 2  # train and val, each by one of them
    assert texts[1].index(WAITING) < texts[1].index("reusing the latents")
    assert len(list(tmp_path.glob("latents/*/manifest.json"))) == 2


@pytest.mark.slow
def test_who_waits_for_a_process_that_is_killed_fills_the_store_itself(start_two, tmp_path):
    holder, waiter, _, log = start_two()
    holder.kill()
    assert waiter.wait(timeout=300) == 0
    assert log.read_text().partition(WAITING)[2].count("inverting into") == 2
    stores = [LatentStore.open(path.parent) for path in tmp_path.glob("latents/*/manifest.json")]
    assert [store.missing_shards() for store in stores] == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_their_own_fill_one_store(start, tiny, tmp_path, launcher):
    log, folder = tmp_path / "log", tmp_path / "sweep"
    settings = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": ["hydra.launcher.timeout_min=5"]}
    options = (*tiny(tmp_path), *ONCE, "seed=0,1", f"hydra.sweep.dir={folder}", f"hydra/launcher={launcher}")
    process = start(log, "train.py", "-m", *options, *settings[launcher])
    assert process.wait() == 0, log.read_text()
    assert all((folder / str(number) / "metrics.json").is_file() for number in range(2))
    written = "".join((folder / str(number) / "train.log").read_text() for number in range(2))
    assert written.count("inverting into") == 2  # train and val
    assert written.count("reusing the latents") == 2
