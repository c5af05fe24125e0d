"""Several processes; ``fit_direction.py`` is what they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from asyrp_lit.training.state import KeepState

SCRIPT = Path(__file__).with_name("fit_direction.py")


def train_in_processes(folder, devices, batch_size, chunk_size=0, checkpoint=()):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, folder, str(devices), str(batch_size), str(chunk_size), *checkpoint]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / f"{devices}.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_train_judge_log_and_draw_as_one_with_the_joint_batch(tiny, tmp_path):
    """Six images in batches of four: the second is filled up, and f_t is updated 12 times; five images are judged."""
    start = tiny.make_module().direction.state_dict()
    alone, together = (train_in_processes(tmp_path, *size) for size in ((1, 4), (2, 2)))
    assert_close(together, alone, atol=1e-6, rtol=0)
    assert all((alone[key] - start[key]).abs().max() > 1e-3 for key in start)
    judged = [json.loads((tmp_path / devices / "metrics.json").read_text()) for devices in ("1", "2")]
    assert judged[1] == pytest.approx(judged[0], abs=1e-5)
    assert judged[0]["val/edit_lpips"] > 1e-3
    assert judged[0]["train/loss of batch 3"] != judged[0]["train/loss of batch 2"] > 1e-3
    grids = [np.asarray(Image.open(tmp_path / devices / "grid.png"), float) for devices in ("1", "2")]
    assert np.abs(grids[1] - grids[0]).max() <= 1  # of 255
    assert {file.name for file in (tmp_path / "2").iterdir()} == {"metrics.json", "last.ckpt", "grid.png", "loss.png"}


@pytest.mark.slow
def test_processes_may_take_their_images_in_chunks_of_different_sizes(tmp_path):
    """As ``method.chunk_size=auto`` may find: the first process has two backward passes an update, the second one."""
    alone, together = (train_in_processes(tmp_path, *size, chunk_size=1) for size in ((1, 4), (2, 2)))
    assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_with_one_image_each_keep_their_states(tmp_path):
    """The first process has no offset, and yet its images are gathered with the others'."""
    train_in_processes(tmp_path, 2, 1)
    slots = torch.load(tmp_path / "2/last.ckpt", weights_only=True)["slots"]
    assert slots["x"].shape[:2] == (2, 1)


class StopAfterSaving(KeepState):
    """Ends a run after its first batch."""

    def _save(self, trainer):
        super()._save(trainer)
        raise RuntimeError("stopped")


@pytest.mark.slow
def test_a_run_that_one_process_began_goes_on_in_two_with_the_same_joint_batch(tiny, tmp_path):
    """Staggered, the images on their way are handed over too."""
    last, options = tmp_path / "last.ckpt", {"batch_size": 4, "lr": 0.01, "train_strengths": (0.5, 1.75)}
    tiny.fit(tmp_path, 2, [StopAfterSaving(last)], stagger=True, **options)
    assert torch.load(last, weights_only=True)["global_step"] == 3
    alone = train_in_processes(tmp_path, 1, 4)
    together = train_in_processes(tmp_path, 2, 2, checkpoint=[last])
    assert_close(together, alone, atol=1e-6, rtol=0)
