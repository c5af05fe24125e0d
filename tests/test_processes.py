"""Two processes train together and one fails; ``train_and_fail.py`` is what they run."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from asyrp_lit.stages import guard

SCRIPT = Path(__file__).with_name("train_and_fail.py")
DDP = ("trainer.devices=2", "+trainer.strategy=ddp", "+trainer.use_distributed_sampler=false")
#: What gloo says when a process has ended.
LOST = "[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:27024"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Where all runs are, so that they share latents."""
    return tmp_path_factory.mktemp("outputs")


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
