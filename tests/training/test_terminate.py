import signal
import sys
import threading
from contextlib import contextmanager, suppress

import pytest
from lightning.pytorch import Callback

from asyrp_lit.training.requeue import requeues_on_signal
from asyrp_lit.training.state import KeepState
from asyrp_lit.training.terminate import EndOnSigterm, Terminated, sigterm_ends

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")


class SendSigterm(Callback):
    """As a scheduler does, in the middle of a batch."""

    def __init__(self, signal_number=signal.SIGTERM):
        self.signal_number = signal_number
        self.batches = 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches += 1
        if batch_idx == 1:
            signal.raise_signal(self.signal_number)


def test_sigterm_ends_training_within_the_batch_and_keeps_the_last_state(tiny, tmp_path):
    stop = SendSigterm()
    trainer = tiny.make_trainer(callbacks=[KeepState(tmp_path / "last.ckpt"), EndOnSigterm(), stop])
    with sigterm_ends(), pytest.raises(Terminated) as raised:
        trainer.fit(tiny.make_module(), tiny.make_data(tmp_path))
    assert raised.value.code == 143
    assert stop.batches == 2
    assert trainer.global_step > 0
    assert {path.name for path in tmp_path.glob("last*")} == {"last.ckpt"}


def test_the_handler_before_is_put_back_and_a_second_sigterm_is_ignored_while_cleaning_up():
    before = signal.getsignal(signal.SIGTERM)

    @sigterm_ends()
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated):
        work()
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_that_are_repeated_do_not_cut_off_what_cleans_up_with_errors_of_its_own():
    cleaned = []

    @contextmanager
    def clean_up():
        try:
            yield
        finally:
            signal.raise_signal(signal.SIGTERM)
            with suppress(OSError):
                raise OSError("no log to write to")
            try:
                raise OSError("no log to write to")
            except OSError:
                signal.raise_signal(signal.SIGTERM)
            cleaned.append(1)

    with sigterm_ends(), pytest.raises(Terminated), clean_up():
        signal.raise_signal(signal.SIGTERM)
    assert cleaned == [1]


def test_the_next_sigterm_ends_a_process_in_which_python_swallowed_one(monkeypatch):
    class Loader:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: swallowed.append(unraisable.exc_type))
    with sigterm_ends():
        Loader()  # gone at once
        assert swallowed == [Terminated]
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)


def test_submitits_handler_which_only_notes_the_signal_does_not_swallow_it():
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    try:
        with pytest.raises(Terminated), sigterm_ends():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [1]


def test_a_job_of_slurm_is_queued_again_and_training_goes_on_with_no_state_but_ours(tiny, tmp_path, slurm):
    last, stop = tmp_path / "last.ckpt", SendSigterm(signal.SIGUSR1)
    trainer = tiny.make_trainer(callbacks=[KeepState(last), EndOnSigterm(), stop], default_root_dir=tmp_path)
    with sigterm_ends(), requeues_on_signal():
        trainer.fit(tiny.make_module(), tiny.make_data(tmp_path))
    assert slurm.read_text() == "requeue 7\n"
    assert stop.batches == 3
    assert list(tmp_path.rglob("*.ckpt")) == [last]
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("SLURM_ARRAY_JOB_ID", "5", "requeue 5_3\n"), ("SLURM_PROCID", "1", None)],
    ids=["array", "second process"],
)
def test_a_task_of_an_array_is_queued_by_both_numbers_and_by_the_first_process(
    slurm, monkeypatch, name, value, expected
):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv(name, value)
    with requeues_on_signal():
        signal.raise_signal(signal.SIGUSR1)
    assert (slurm.read_text() if slurm.exists() else None) == expected


@pytest.mark.parametrize(("content", "reason"), [("#!/bin/sh\nexit 3", "ended with code 3"), (None, "cannot be run")])
def test_a_job_that_cannot_be_queued_says_so(slurm, tmp_path, monkeypatch, caplog, content, reason):
    if content is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        (tmp_path / "bin" / "scontrol").write_text(content)
    with requeues_on_signal():
        signal.raise_signal(signal.SIGUSR1)
    assert f"job 7 is not queued again, submit it anew: scontrol {reason}" in caplog.text


def test_a_handler_that_is_there_and_a_machine_without_slurm_stay_as_they_are(slurm, monkeypatch):
    noted = []
    before = signal.signal(signal.SIGUSR1, lambda *_: noted.append(1))
    try:
        with requeues_on_signal():
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert noted == [1]
    assert not slurm.exists()
    monkeypatch.delenv("SLURM_NTASKS")
    with requeues_on_signal():
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_stage_in_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with sigterm_ends():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
