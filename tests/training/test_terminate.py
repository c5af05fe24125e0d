import signal
import threading

import pytest
from lightning.pytorch import Callback

from asyrp_lit.training.callbacks import KeepState
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


def test_lightnings_handler_of_a_job_of_slurm_stays(tiny, tmp_path, monkeypatch):
    """SIGUSR1 saves and queues the job anew; training goes on until SLURM ends it."""
    called = []
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.signal_connector.call", lambda c: called.append(c) or 0)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_LOCALID", "SLURM_PROCID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("SLURM_NODELIST", "localhost")
    options = {"callbacks": [EndOnSigterm(), SendSigterm(signal.SIGUSR1)], "default_root_dir": tmp_path}
    trainer = tiny.make_trainer(**options)
    with sigterm_ends():
        trainer.fit(tiny.make_module(), tiny.make_data(tmp_path))
    assert called == [["scontrol", "requeue", "7"]]
    assert (tmp_path / "hpc_ckpt_1.ckpt").is_file()


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
