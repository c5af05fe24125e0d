"""Sweeps of ``train.py`` on four portraits, four steps and a random network."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
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
    assert outcome.text.count("LPIPS curves:   0%") == 1
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


@pytest.mark.parametrize("is_kept", [False, True], ids=["no storage", "storage"])
def test_a_search_draws_its_trials_again_and_one_with_a_storage_new_ones(scripts, tmp_path, monkeypatch, is_kept):
    drawn = []
    monkeypatch.setattr("asyrp_lit.stages.train", lambda cfg: drawn.append(cfg.judged) or (cfg.judged, 1 / cfg.judged))
    kept = (f"hydra.sweeper.storage=sqlite:///{tmp_path}/search.db", "hydra.sweeper.study_name=smile")
    options = ("hydra.sweeper.n_trials=2", *(kept if is_kept else ()))
    for start in ("first", "second"):
        assert scripts.run("train.py", "-m", "search=optuna", *options, f"hydra.sweep.dir={tmp_path / start}").code == 0
    assert len(drawn) == 4
    assert len(set(drawn)) == (4 if is_kept else 2)
    assert is_kept or drawn[:2] == drawn[2:]
    best = OmegaConf.load(tmp_path / "second/optimization_results.yaml").solutions
    assert len(best) == (4 if is_kept else 2)


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


@pytest.mark.slow
def test_two_processes_that_start_at_once_fill_one_store_together(start, tiny, tmp_path):
    """So much to invert that each takes shards, however late the second is."""
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    many = ("data.train.num_images=96", "method.num_steps=60", "inversion_batch_size=2")
    both = [start(log, "invert.py", *tiny(tmp_path), *many, f"hydra.run.dir={log}.run") for log in logs]
    assert [process.wait(timeout=300) for process in both] == [0, 0], logs[0].read_text() + logs[1].read_text()
    stores = [LatentStore.open(path.parent) for path in tmp_path.glob("latents/*/manifest.json")]
    assert [store.missing_shards() for store in stores] == [[], []]
    alone = start(tmp_path / "c.log", "invert.py", *tiny(tmp_path / "alone"), *many, f"hydra.run.dir={tmp_path}/c.run")
    assert alone.wait(timeout=300) == 0
    for store in stores:
        for path in store.folder.glob("*.*"):
            assert path.read_bytes() == (tmp_path / "alone" / "latents" / store.folder.name / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_their_own_fill_one_store(start, tiny, tmp_path, launcher):
    log, folder = tmp_path / "log", tmp_path / "sweep"
    settings = {"joblib": ["hydra.launcher.n_jobs=2"], "submitit_local": ["hydra.launcher.timeout_min=5"]}
    options = (*tiny(tmp_path), *ONCE, "seed=0,1", f"hydra.sweep.dir={folder}", f"hydra/launcher={launcher}")
    options += ("inversion_batch_size=2", "latents.num_workers=1")  # with workers of their own
    process = start(log, "train.py", "-m", *options, *settings[launcher])
    assert process.wait() == 0, log.read_text()
    assert all((folder / str(number) / "metrics.json").is_file() for number in range(2))
    written = "".join((folder / str(number) / "train.log").read_text() for number in range(2))
    stores = [LatentStore.open(path.parent) for path in tmp_path.glob("latents/*/manifest.json")]
    assert [store.missing_shards() for store in stores] == [[], []]
    assert written.count("inverting into") + written.count("reusing the latents") == 4  # train and val of each


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
def test_workers_of_joblib_end_with_a_sweep_that_is_killed_and_the_same_command_goes_on(start, tiny, tmp_path):
    log, jobs = tmp_path / "log", [tmp_path / "sweep" / str(number) for number in range(2)]
    options = (*tiny(tmp_path), "interval=all", "method.passes=2", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    command = (log, "train.py", "-m", *options, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = start(*command)
    assert wait_for(lambda: all((job / "last.ckpt").is_file() for job in jobs), 240), log.read_text()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    left = [Path("/proc", child, "cmdline") for child in children]
    assert len(left) >= 2
    assert wait_for(lambda: not any(path.is_file() and path.read_bytes() for path in left), 20), log.read_text()
    assert start(*command).wait(timeout=240) == 0, log.read_text()
    assert "from last.ckpt" in log.read_text()
    assert all((job / "metrics.json").is_file() for job in jobs)


@pytest.mark.slow
def test_a_job_of_two_processes_that_fails_leaves_the_next_alone_and_the_sweep_goes_on_in_its_folder(
    start, tiny, tmp_path
):
    """No folder is given: the jobs' processes have that of the sweep."""
    ddp = ("trainer.devices=2", "+trainer.strategy=ddp", "+trainer.use_distributed_sampler=false")
    options = (*tiny(tmp_path), *ONCE, *ddp, "method.batch_size=1", "objective=[edit_lpips]")
    command = (tmp_path / "log", "train.py", "-m", *options, "method.optimizer.lr=1e30,5e-4")
    assert start(*command).wait(timeout=600) == 1
    text, (folder,) = (tmp_path / "log").read_text(), tmp_path.glob("sweeps/train/*")
    assert text.count("lower method.optimizer.lr") >= 2, text  # by the job, and at the end
    assert "FloatingPointError" in (folder / "0/error.log").read_text()
    metrics = (folder / "1/metrics.json").read_bytes()
    assert start(*command, f"hydra.sweep.dir={folder}").wait(timeout=600) == 1
    assert f"{folder}/1 has finished before" in (tmp_path / "log").read_text()
    assert (folder / "1/metrics.json").read_bytes() == metrics
    assert list(tmp_path.glob("sweeps/train/*")) == [folder]
