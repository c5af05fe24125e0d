"""Shape and type checks of the package's annotations, on for every test; the scripts as a user runs them."""

import logging
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("asyrp_lit", "beartype.beartype")

ROOT = Path(__file__).parents[1]


def run_script(name, *overrides):
    """``python NAME OVERRIDES`` without a new process, which would import torch again: exit code and all it prints."""
    output, code = StringIO(), 0
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    argv = [str(ROOT / name), *map(str, overrides)]
    try:
        with mock.patch.object(sys, "argv", argv), redirect_stdout(output), redirect_stderr(output):
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
    return SimpleNamespace(code=code, text=output.getvalue())


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """``scripts.run(NAME, *OVERRIDES)``, and as overrides a network (``tiny(OUTPUTS)``) and images (``portraits``)."""
    from diffusers import UNet2DModel

    unet = tmp_path_factory.mktemp("unet")
    torch.manual_seed(1234)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    UNet2DModel(32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks).save_pretrained(unet)

    def tiny(outputs):
        model = ("model=custom", f"model.weights={unet}", "model.domain=avatars", "model.image_size=32")
        model += ("model.max_eps_error=null",)  # its weights are random
        return (*model, "method.num_steps=4", "method.batch_size=2", f"paths.outputs={outputs}")

    portraits = ("data.train.num_images=4", "data.val.num_images=4")
    return SimpleNamespace(run=run_script, tiny=tiny, portraits=portraits, root=ROOT, unet=unet)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Where all runs of a file are, so that they share latents."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def whole(train, outputs):
    """A run that nothing stopped, by the file's own ``train``."""
    outcome = train(outputs / "whole")
    assert outcome.code == 0, outcome.text
    return outputs / "whole"


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A job of SLURM with the number 7 and one task: the file in which ``scontrol`` notes what it is called with."""
    noted, scontrol = tmp_path / "scontrol.txt", tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {noted}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in {"NTASKS": "1", "JOB_ID": "7", "JOB_NAME": "train", "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("LOCALID", "PROCID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    return noted


@pytest.fixture(scope="session")
def make_released():
    """``make_released(PATH, "ddpm" or "adm")``: a file of the released layout with random tensors; returns these."""

    def write(path, layout="ddpm", channels=64, temb_channels=128, **changes):
        square, vector = (channels, channels, 1, 1), (channels,)
        modules = {
            "ddpm": {"conv1": square, "temb_proj": (channels, temb_channels), "norm2": vector, "conv2": square},
            "adm": {
                **{"in_layers.0": vector, "in_layers.2": square, "emb_layers.1": (channels, temb_channels)},
                **{"out_layers.0": vector, "out_layers.3": square},
            },
        }[layout]
        generator = torch.Generator().manual_seed(7)
        state = {}
        for module, shape in modules.items():
            state[f"{module}.weight"] = torch.randn(shape, generator=generator) / channels**0.5
            state[f"{module}.bias"] = torch.randn(channels, generator=generator)
        parameters = [torch.nn.Parameter(value.clone()) for value in state.values()]
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.9)
        content = {"0": state, "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        torch.save({**content, **changes}, path)
        return state

    return write


@pytest.fixture(scope="session")
def unet(scripts, tmp_path_factory):
    """A folder with the scripts' tiny network, its last layer scaled down: pictures stay where nothing is clipped."""
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(scripts.unet)
    network.conv_out.weight.data.mul_(0.03)
    network.save_pretrained(folder := tmp_path_factory.mktemp("base") / "tiny")
    return folder
