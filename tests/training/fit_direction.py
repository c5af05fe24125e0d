"""Trains and judges the tiny direction: ``fit_direction.py FOLDER DEVICES BATCH_SIZE CHUNK_SIZE [CHECKPOINT]``.

Leaves the direction in ``FOLDER/DEVICES.pt``; metrics, loss curve, state and preview grid in ``FOLDER/DEVICES/``.
The batch size is that of each process, the chunk size (0 for none) that of the first alone.
Lightning starts this file again for every further process.
"""

import json
import os
import sys
from pathlib import Path

import torch
from conftest import make_data, make_module, make_trainer

from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.training.callbacks import LossCurve, PreviewGrid
from asyrp_lit.training.state import KeepState


def main(folder: Path, devices: int, batch_size: int, chunk_size: int, checkpoint: str | None = None) -> None:
    run = folder / str(devices)
    run.mkdir(exist_ok=True)
    panel = MetricPanel(Judges(make_module().loss.clip, load_lpips()), torch.ones(1, 8))
    module = make_module(lr=0.01, panel=panel, stagger=True, train_strengths=(0.5, 1.75))
    module.chunk_size = chunk_size if chunk_size and os.environ.get("LOCAL_RANK", "0") == "0" else None
    curve = LossCurve(run)
    callbacks = [PreviewGrid(run, 5, (-1.0, 1.0), "tiny"), curve, KeepState(run / "last.ckpt")]
    strategy = "ddp" if devices > 1 else "auto"
    trainer = make_trainer(max_epochs=2, callbacks=callbacks, devices=devices, strategy=strategy)
    trainer.fit(module, make_data(folder, batch_size, num_val=5), ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        torch.save(module.direction.state_dict(), folder / f"{devices}.pt")
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        metrics |= {f"{name} of batch {k}": v for name, values in curve.series.items() for k, v in enumerate(values)}
        (run / "metrics.json").write_text(json.dumps(metrics))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
