"""The state of a training in its run folder: written whole, and refused where it is damaged."""

from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import TorchCheckpointIO

from asyrp_lit.files import write_atomically

#: Of last.ckpt; one that names none is of version 1.
CHECKPOINT_VERSION = 1


class WholeFiles(TorchCheckpointIO):
    """Writes beside the last state and takes its place; Lightning's way is over TMPDIR, which may be another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Called by Lightning, on the first process."""
        content = BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getvalue())


class KeepState(Callback):
    """Saves the state while a network trains, all of it or nothing; has to come after what averages the weights.

    After an epoch's last batch it waits for the validation: Lightning would not run that again for a state from before.

    Args:
        path: the checkpoint.
        every: optimiser steps from one saved state to the next, in runs without validations that count; ``None`` saves
            after every batch, which is for small networks.
    """

    def __init__(self, path: Path, every: int | None = None) -> None:
        self.path = path
        self.every = every

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See to it that files are written whole."""
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within the epoch."""
        if (trainer.global_step % self.every == 0) if self.every else not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch."""
        if self.every is None:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say of which format version it is."""
        checkpoint["format_version"] = CHECKPOINT_VERSION

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)


def check_fits(checkpoint: Path, module: LightningModule) -> None:
    """See that a checkpoint is whole and of this network.

    Raises:
        ValueError: it is not, or of another format version.
    """
    state = load_whole(checkpoint)
    version = state.get("format_version", 1)
    if version != CHECKPOINT_VERSION:
        raise ValueError(
            f"{checkpoint} has format version {version}, this asyrp_lit reads {CHECKPOINT_VERSION}: go on with the "
            "asyrp_lit that wrote it, or delete it to start the run anew"
        )
    try:
        module.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"{checkpoint} cannot be resumed with these settings: repeat the overrides in "
            f"{checkpoint.parent / '.hydra' / 'overrides.yaml'}"
        ) from error


def load_whole(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint; torch itself reads one with damaged tensors without a word.

    Raises:
        ValueError: it is cut off or damaged.
    """
    content = checkpoint.read_bytes()
    try:
        if ZipFile(BytesIO(content)).testzip() is None:
            return dict(torch.load(BytesIO(content), map_location="cpu", weights_only=True))
        cause = None
    except (RuntimeError, OSError, ValueError, TypeError, UnpicklingError, EOFError, BadZipFile) as error:
        cause = error
    raise ValueError(
        f"{checkpoint} cannot be resumed, it is damaged or half-written: put a copy back, or delete it to start "
        "the run anew"
    ) from cause
