import errno
from contextlib import suppress

import pytest
import torch
from lightning.pytorch import Callback

from asyrp_lit.training.callbacks import LossCurve
from asyrp_lit.training.state import KeepState

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")


class Stop(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 2:
            raise RuntimeError("killed")


def fit(tiny, root, *callbacks, resume=None):
    keep = KeepState(root / "last.ckpt")
    with suppress(RuntimeError):
        trainer = tiny.make_trainer(callbacks=[*callbacks, keep])
        trainer.fit(tiny.make_module(lr=0.01), tiny.make_data(root), ckpt_path=resume, weights_only=True)


def test_the_loss_curve_of_a_resumed_run_is_whole(tiny, tmp_path):
    whole, killed, resumed = (LossCurve(tmp_path / name) for name in ("whole", "killed", "resumed"))
    fit(tiny, tmp_path, whole)
    fit(tiny, tmp_path, killed, Stop())
    assert killed.steps == [3, 6]
    assert not (tmp_path / "killed").exists()
    fit(tiny, tmp_path, resumed, resume=tmp_path / "last.ckpt")
    assert (resumed.steps, resumed.series) == (whole.steps, whole.series)
    assert whole.steps == [3, 6, 9]
    assert (tmp_path / "resumed" / "loss.png").is_file()


def test_a_state_that_cannot_be_written_leaves_the_last_one(tiny, tmp_path, monkeypatch):
    def fill_the_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    fit(tiny, tmp_path, Stop())
    before, names = (tmp_path / "last.ckpt").read_bytes(), set(tmp_path.iterdir())
    trainer = tiny.make_trainer(callbacks=[KeepState(tmp_path / "last.ckpt")])
    data = tiny.make_data(tmp_path)
    monkeypatch.setattr("asyrp_lit.files.os.fsync", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(tiny.make_module(), data)
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert set(tmp_path.iterdir()) == names


def test_states_are_written_in_their_own_folder_alone(tiny, tmp_path, monkeypatch):
    """A file that is made elsewhere is copied over the last state where that is another file system."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    fit(tiny, tmp_path)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 9
