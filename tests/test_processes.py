"""Processes that are started together: one run folder, what the first writes, and one that fails.

``train_and_fail.py`` is what those run of which one fails.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from omegaconf import OmegaConf
from torch.distributed import TCPStore

from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.stages import guard
from asyrp_lit.stages.interval import build_interval
from asyrp_lit.stages.latents import write_image_lists
from asyrp_lit.stages.launch import name_start

SCRIPT = Path(__file__).with_name("train_and_fail.py")
DDP = ("trainer.devices=2", "+trainer.strategy=ddp", "+trainer.use_distributed_sampler=false")
#: What gloo says when a process has ended.
LOST = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:27024"
#: Through a shell, so that the second process starts in another second.
LATE = ("sh", "-c", 'sleep "$((3 * RANK))"; exec "$@"', "sh", sys.executable)


def test_processes_of_torchrun_have_one_name(monkeypatch):
    server = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    variables = {"MASTER_ADDR": "localhost", "MASTER_PORT": server.port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    variables |= {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0}
    assert name_start("%f") != name_start("%f")  # microseconds: alone each start has its own
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert name_start("%Y %f") == name_start("%Y %f") != name_start("%f")


def test_tasks_of_srun_have_the_name_of_their_job_and_step(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_ID", "3")
    assert name_start("%Y").isdecimal()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert name_start("%Y") == "job-7.3"


@pytest.mark.parametrize("rank", [0, 1])
def test_image_lists_and_the_curves_of_the_interval_are_written_by_the_first_process(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    chosen = {"kind": "lpips", "edit_threshold": 0.33, "boost_threshold": 1.2, "t_start": 1000}
    parts = {"interval": chosen, "model": {"image_size": 256}, "data": {"curves": "celeba"}}
    model, source, grid = mock.Mock(spec=HSpaceUNet), RandomLatents("val", 2, 16, 0), tuple(range(0, 1000, 25))
    interval = build_interval(OmegaConf.create(parts), model, source, grid, 0.8, tmp_path)
    assert interval.t_edit > interval.t_boost > 0
    write_image_lists({"val": source}, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == ({"interval.png", "images-val.txt"} if rank == 0 else set())


def test_processes_that_would_each_train_on_all_images_are_refused(scripts, slurm, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    outcome = scripts.run("train.py", *scripts.tiny(tmp_path), *scripts.portraits, "interval=all")
    assert outcome.code == 1
    assert "torchrun or SLURM started 2 processes, but the trainer is for one" in outcome.text
    assert not list(tmp_path.rglob("latents"))


def test_a_shell_of_salloc_is_one_process(scripts, slurm, monkeypatch, tmp_path):
    for name in ("LOCALID", "PROCID", "NODEID"):
        monkeypatch.delenv(f"SLURM_{name}")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    options = ("interval=all", "method.passes=1", f"hydra.run.dir={tmp_path / 'run'}")
    outcome = scripts.run("train.py", *scripts.tiny(tmp_path), *scripts.portraits, *options)
    assert outcome.code == 0, outcome.text
    assert (tmp_path / "run/glasses.safetensors").is_file()


@pytest.mark.parametrize("processes", [["trainer.devices=2", "+trainer.strategy=ddp"], []], ids=["ddp", "srun"])
def test_a_direction_that_discover_trains_is_for_one_process(scripts, slurm, monkeypatch, tmp_path, processes):
    monkeypatch.setenv("SLURM_NTASKS", "1" if processes else "2")
    outcome = scripts.run("discover.py", "method=delta_h", "attr=beard", *scripts.tiny(tmp_path), *processes)
    assert outcome.code == 1
    assert "discover.py is the work of one process, not of 2: start one" in outcome.text


@pytest.mark.parametrize("script", ["evaluate.py", "edit.py", "discover.py", "interval.py"])
def test_what_is_not_shared_is_done_by_the_first_process(scripts, slurm, monkeypatch, tmp_path, script):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    chosen = ["method=delta_h"] if script == "discover.py" else []
    outcome = scripts.run(script, *chosen, *scripts.tiny(tmp_path), f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.text
    assert "process 2 of 2 ends: the first does all of this" in outcome.text
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {".hydra", script.replace("py", "log")}


@pytest.mark.slow
def test_processes_of_torchrun_that_start_in_different_seconds_train_in_one_folder(scripts, tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python")
    options = (*scripts.tiny(tmp_path), *scripts.portraits, "interval=all", "method.passes=1", *DDP)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*torchrun, *LATE, scripts.root / "train.py", *options, "method.batch_size=1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("train/*/*/*"))) == 1
    assert len(list(tmp_path.glob("train/*/*/*/metrics.json"))) == 1


@pytest.fixture
def fail(scripts, outputs, tmp_path):
    """Train in ``tmp_path/run`` until a process fails: exit code, output, and whether the second process is left."""

    def run(where):
        overrides = (*scripts.tiny(outputs), *scripts.portraits, "interval=all", "method.passes=1", *DDP)
        command = [sys.executable, SCRIPT, *overrides, "method.batch_size=1", f"hydra.run.dir={tmp_path / 'run'}"]
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "NOTES": str(tmp_path), "WHERE": where}
        with (tmp_path / "output.txt").open("w+") as output:  # a pipe would be waited for until both have ended
            options = {"env": os.environ | variables, "stdout": output, "stderr": output, "start_new_session": True}
            process = subprocess.Popen(command, **options)
            try:
                code = process.wait(300)
                left = Path("/proc", (tmp_path / "child").read_text()).exists()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return code, (tmp_path / "output.txt").read_text(), left

    return run


@pytest.mark.slow
def test_sigterm_in_calibration_ends_both_processes(fail, tmp_path):
    code, text, left = fail("calibration")
    assert code == 143, text
    assert not left
    assert text.count("[ERROR]") == 1
    assert f"ended by SIGTERM; what was finished is kept, the same command with resume={tmp_path / 'run'}" in text


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first", "second"])
def test_the_message_of_the_process_that_fails_remains(fail, tmp_path, where):
    code, text, left = fail(where)
    assert code == 1, text
    assert not left
    assert text.count("No space left on device; the disk is full") == 1
    assert text.count("another process of this run ended first") == (where == "second")
    assert "Traceback" not in text
    assert "No space left on device" in (tmp_path / "run" / "error.log").read_text()


def end_with(folder, error):
    with pytest.raises(SystemExit) as stop, guard.errors_as_messages(guard.keep_traceback):
        raise error
    return stop.value.code, (folder / "error.log").read_text()


@pytest.mark.parametrize("first", ["cause", "consequence"])
def test_error_log_is_that_of_the_cause_whichever_process_is_quicker(tmp_path, monkeypatch, caplog, first):
    monkeypatch.setattr(guard, "run_folder", lambda: tmp_path)
    errors = [ValueError("a damaged shard"), RuntimeError(LOST)]
    for error in errors if first == "cause" else reversed(errors):
        code, kept = end_with(tmp_path, error)
        assert code == 1
    assert "ValueError: a damaged shard" in kept
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
    assert "another process of this run ended first; its message" in caplog.text
