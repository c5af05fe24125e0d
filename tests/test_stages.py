"""The real scripts on four portraits, four steps and a random network: what a run leaves, reuses and survives."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import wandb
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from asyrp_lit.hspace.direction import read_direction_info

METRICS = {"directional_cosine", "edit_lpips", "reconstruction_lpips", "reconstruction_psnr"}
ORACLE = {"oracle_score", "success", "preservation", "reconstruction_preservation"}


@pytest.fixture(scope="module")
def tiny(scripts):
    """Overrides for four portraits, a random network and outputs in a folder."""
    return lambda outputs: (*scripts.tiny(outputs), *scripts.portraits)


def succeed(outcome):
    assert outcome.code == 0, outcome.text
    assert "Traceback" not in outcome.text
    return outcome


def mtimes(outputs):
    return {path.name: path.stat().st_mtime_ns for path in outputs.glob("latents/*/shard-*")}


@pytest.fixture(scope="module")
def trained(scripts, tiny, tmp_path_factory):
    """A finished run of the default attribute: its outputs, run folder and what it printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    run = outputs / "run"
    outcome = scripts.run("train.py", *tiny(outputs), "method.passes=2", f"hydra.run.dir={run}")
    return outputs, run, succeed(outcome).text


def test_a_run_leaves_its_files(trained):
    outputs, run, _ = trained
    pictures = [Image.open(run / name) for name in ("grid.png", "loss.png", "interval.png")]
    assert all(min(picture.size) > 100 for picture in pictures)
    assert OmegaConf.load(run / ".hydra/config.yaml").method.num_steps == 4
    assert read_direction_info(run / "glasses.safetensors").attribute == "glasses"
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 1
    rows = list(csv.DictReader((run / "log/metrics.csv").open()))
    assert sum(bool(row["train/loss"]) for row in rows) == 4  # two passes of two batches
    assert not list(outputs.rglob("*.tmp"))


def test_metrics_are_the_same_in_every_place(trained):
    _, run, text = trained
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics) == METRICS | ORACLE
    assert read_direction_info(run / "glasses.safetensors").metrics == metrics
    assert all(f"{value:.4f}" in text for value in metrics.values())


def test_a_run_prints_bars_and_own_lines_only(trained):
    lines = [line for line in trained[2].replace("\r", "\n").splitlines() if line.strip(" \x1b[A")]
    bars = ("invert avatars", "LPIPS curves", "Training:", "Epoch ", "Validation")
    assert not [line for line in lines if not line.startswith(bars) and "[asyrp_lit." not in line]


def test_one_store_in_float32_serves_every_trainer(scripts, tiny, tmp_path):
    for trainer in ("cpu", "cpu_bf16"):
        run = f"hydra.run.dir={tmp_path / trainer}"
        succeed(scripts.run("invert.py", *tiny(tmp_path), f"trainer={trainer}", "latents.precision=32-true", run))
    stores = list(tmp_path.glob("latents/*/manifest.json"))
    assert len(stores) == 2  # train and val
    succeed(scripts.run("invert.py", *tiny(tmp_path), "trainer=cpu_bf16", f"hydra.run.dir={tmp_path / 'low'}"))
    assert len(list(tmp_path.glob("latents/*/manifest.json"))) == 4


def test_a_second_run_reuses_the_latents(trained, scripts, tiny):
    outputs, run, _ = trained
    before = mtimes(outputs)
    outcome = succeed(scripts.run("train.py", *tiny(outputs), "method.passes=2", f"hydra.run.dir={outputs / 'again'}"))
    assert mtimes(outputs) == before
    assert "LPIPS curves" not in outcome.text
    assert "inverting" not in outcome.text
    assert (outputs / "again/glasses.safetensors").read_bytes() == (run / "glasses.safetensors").read_bytes()


def test_invert_fills_the_stores_that_evaluate_reads(trained, scripts, tiny):
    outputs, run, _ = trained
    options = (*tiny(outputs), "data.val.num_images=3")
    succeed(scripts.run("invert.py", *options))
    before = mtimes(outputs)
    folder = f"hydra.run.dir={outputs / 'evaluated'}"
    succeed(
        scripts.run("evaluate.py", *options, f"direction={run / 'glasses.safetensors'}", "strengths=[-1,1]", folder)
    )
    assert mtimes(outputs) == before
    metrics = json.loads((outputs / "evaluated/metrics.json").read_text())
    assert {name: set(values) for name, values in metrics.items()} == dict.fromkeys(("-1", "1"), METRICS | ORACLE)
    assert (outputs / "evaluated/grid.png").is_file()


def test_evaluate_at_three_strengths_says_how_monotone_the_oracles_score_is(trained, scripts, tiny):
    outputs, run, _ = trained
    options = (*tiny(outputs), f"direction={run / 'glasses.safetensors'}", "strengths=[1,-1,0]")
    outcome = succeed(scripts.run("evaluate.py", *options, f"hydra.run.dir={outputs / 'monotone'}"))
    metrics = json.loads((outputs / "monotone/metrics.json").read_text())
    found = metrics.pop("over_strengths")
    assert list(metrics) == ["1", "-1", "0"]
    assert set(found) == {"of_images", "of_each", "of_mean", "largest_fall"}
    assert all(-1 <= value <= 1 for value in found.values())
    assert f"of mean: {found['of_mean']:.3f}" in outcome.text
    assert (outputs / "monotone/curve.png").is_file()


def test_evaluate_finds_what_training_measured(trained, scripts, tiny):
    outputs, run, _ = trained
    folder = f"hydra.run.dir={outputs / 'same'}"
    direction = f"direction={run / 'glasses.safetensors'}"
    succeed(scripts.run("evaluate.py", *tiny(outputs), direction, "strengths=[1]", folder))
    measured = json.loads((outputs / "same/metrics.json").read_text())["1"]
    assert measured == pytest.approx(json.loads((run / "metrics.json").read_text()), abs=1e-3)


def test_zero_means_zero_in_a_fixed_interval(trained, scripts, tiny):
    outputs = trained[0]
    fixed = ("interval=fixed", "interval.t_edit=0", "interval.t_boost=0", "method.passes=1")
    succeed(scripts.run("train.py", *tiny(outputs), *fixed, f"hydra.run.dir={outputs / 'fixed'}"))
    info = read_direction_info(outputs / "fixed/glasses.safetensors")
    assert (info.t_edit, info.t_boost) == (0, 0)


def test_sizes_that_are_to_be_found_become_numbers_and_are_kept_with_the_state(trained, scripts, tiny):
    """Two portraits are trained on, and a batch takes an eighth of them at the most; one is the least."""
    outputs, run = trained[0], trained[0] / "auto"
    options = ("interval=all", "method.passes=1", "method.batch_size=auto", "method.chunk_size=auto")
    options += ("inversion_batch_size=auto", "method.train_strengths=[-1,1.75]")
    outcome = succeed(scripts.run("train.py", *tiny(outputs), *options, f"hydra.run.dir={run}"))
    for name, found in (("inversion_batch_size", 16), ("method.batch_size", 1), ("method.chunk_size", 1)):
        assert f"{name}=auto: {found}\n" in outcome.text
    assert torch.load(run / "last.ckpt", weights_only=True)["batch_size"] == 1
    assert read_direction_info(run / "glasses.safetensors").loss["train_strengths"] == [-1, 1.75]


def test_training_goes_on_from_a_direction(trained, scripts, tiny):
    """At a rate of next to nothing it stays what it was."""
    outputs, run, _ = trained
    first, later = run / "glasses.safetensors", outputs / "later"
    options = (*tiny(outputs), "interval=all", "method.passes=1", f"method.init_from={first}")
    succeed(scripts.run("train.py", *options, "method.optimizer.lr=1e-30", f"hydra.run.dir={later}"))
    found, wanted = load_file(later / "glasses.safetensors"), load_file(first)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert max(float(value.abs().max()) for key, value in wanted.items() if key.startswith("conv2")) > 0
    assert read_direction_info(later / "glasses.safetensors").loss["init_from"] == "glasses.safetensors"
    shorter = ("method.num_steps=2", "method.optimizer.lr=1e-30", f"hydra.run.dir={outputs / 'shorter'}")
    succeed(scripts.run("train.py", *options, *shorter))
    found = load_file(outputs / "shorter/glasses.safetensors")
    assert all(torch.equal(found[key], value * 2 ** key.startswith("conv2")) for key, value in wanted.items())
    for change, message in (
        ("method.init_from=glasses", "does not fit custom"),
        ("method=free_global", "(f_t_ddpm, 4 steps) does not fit method.kind=global with 4 steps"),
    ):
        outcome = scripts.run("train.py", *options, change, f"hydra.run.dir={outputs / 'unfit'}")
        assert outcome.code == 1
        assert message in outcome.text


def test_words_that_the_small_clip_has_not_learnt_give_one_warning(trained, scripts, tiny):
    outputs = trained[0]
    options = ("attr=young", "interval=all", "method.passes=1", "method=free_global")
    outcome = succeed(scripts.run("train.py", *tiny(outputs), *options, f"hydra.run.dir={outputs / 'young'}"))
    assert outcome.text.count("the oracle does not judge") == outcome.text.count("WARNING") == 1
    assert set(json.loads((outputs / "young/metrics.json").read_text())) == METRICS


def test_check_texts_reports_both_cosines(scripts, tmp_path):
    outcome = succeed(scripts.run("check_texts.py", "attr=smiling", "num_pairs=4", f"paths.outputs={tmp_path}"))
    assert "cosine of the texts" in outcome.text
    assert "4 pairs" in outcome.text


def test_wandb_offline_leaves_a_run_folder_and_a_rerun_goes_on_in_it(trained, scripts, tiny, monkeypatch):
    outputs, run = trained[0], trained[0] / "wandb_run"
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = ("interval=all", "method.passes=1", "logger=wandb", "logger.wandb.offline=true")
    succeed(scripts.run("train.py", *tiny(outputs), *options, f"hydra.run.dir={run}"))
    (record,) = run.glob("wandb/offline-run-*/*.wandb")
    assert (run / "log/metrics.csv").is_file()
    assert wandb.run is None
    (run / "metrics.json").unlink()  # as if it had been stopped before it was judged
    succeed(scripts.run("train.py", *tiny(outputs), *options, f"hydra.run.dir={run}"))
    assert [path.name for path in run.glob("wandb/offline-run-*/*.wandb")] == [record.name] * 2


@pytest.fixture
def start(scripts, tiny, trained):
    """Start a training as a process of its own and wait for its first checkpoint."""
    processes = []

    def start(run):
        command = [sys.executable, str(scripts.root / "train.py"), *tiny(trained[0]), *LONG]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, f"hydra.run.dir={run}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A background job of a shell ignores Ctrl-C, and its children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        processes.append(process)
        while not (run / "last.ckpt").is_file():
            assert process.poll() is None, process.stdout.read().decode()
            time.sleep(0.01)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


#: Long enough to be stopped in the middle, with one image a batch.
LONG = ("interval=all", "method.passes=4", "method.batch_size=1")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["same-command", "resume"])
def test_a_killed_run_goes_on_to_the_same_direction(trained, scripts, tiny, start, way):
    outputs = trained[0]
    killed, whole = outputs / f"killed-{way}", outputs / "whole"
    process = start(killed)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "glasses.safetensors").exists()
    options = (*tiny(outputs), *LONG)
    again = [f"resume={killed}", f"hydra.run.dir={outputs / 'resumed'}"]
    succeed(scripts.run("train.py", *options, *(again if way == "resume" else [f"hydra.run.dir={killed}"])))
    succeed(scripts.run("train.py", *options, f"hydra.run.dir={whole}"))
    found, expected = (load_file(run / "glasses.safetensors") for run in (killed, whole))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert json.loads((killed / "metrics.json").read_text()) == json.loads((whole / "metrics.json").read_text())


@pytest.mark.slow
def test_ctrl_c_keeps_the_state_and_fails(trained, start):
    run = trained[0] / "stopped"
    process = start(run)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, text
    assert f"resume={run}" in text
    assert "Traceback" not in text
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] > 0
    assert not list(run.glob("*.safetensors")) + list(run.glob("*.tmp"))
