from contextlib import suppress

import pytest
from lightning.pytorch import Callback

from asyrp_lit.training.callbacks import KeepState, LossCurve

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
    def write_half(path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    fit(tiny, tmp_path, Stop())
    before = (tmp_path / "last.ckpt").read_bytes()
    trainer = tiny.make_trainer(callbacks=[KeepState(tmp_path / "last.ckpt")])
    monkeypatch.setattr(trainer, "save_checkpoint", write_half)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(tiny.make_module(), tiny.make_data(tmp_path))
    assert (tmp_path / "last.ckpt").read_bytes() == before
