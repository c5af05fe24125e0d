"""Trains the tiny direction in as many processes as asked and saves it: ``fit_direction.py FOLDER DEVICES BATCH_SIZE``.

The batch size is that of each process. Lightning starts this file again for every further process.
"""

import sys
from pathlib import Path

import torch
from conftest import make_data, make_module, make_trainer


def main(folder: Path, devices: int, batch_size: int) -> None:
    module = make_module(lr=0.01)
    trainer = make_trainer(max_epochs=2, devices=devices, strategy="ddp" if devices > 1 else "auto")
    trainer.fit(module, make_data(folder, batch_size))
    if trainer.is_global_zero:
        torch.save(module.direction.state_dict(), folder / f"{devices}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
