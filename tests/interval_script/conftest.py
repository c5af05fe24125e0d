"""What the tests of ``interval.py`` share: a way to run it, and direction files for its random network."""

import json

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction, save_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet

#: Random weights are far from the thresholds of trained ones.
THRESHOLD = "interval.edit_threshold=0.3"
FEW = ("strip_images=2", "strip_columns=3", "sweep_images=2")


@pytest.fixture(scope="module")
def tiny(scripts):
    """Overrides for a random network, eight portraits and outputs in a folder."""
    images = ("data.train.num_images=8", "data.val.num_images=4", "interval.num_images=4", "inversion_batch_size=2")
    return lambda outputs: (*scripts.tiny(outputs), *images, THRESHOLD, *FEW)


@pytest.fixture
def measure(scripts, tiny, tmp_path):
    """Run ``interval.py``; returns its run folder, what it wrote into interval.json and what it printed."""

    def measure(*overrides, outputs=tmp_path, name="run"):
        run = outputs / name
        outcome = scripts.run("interval.py", *tiny(outputs), f"hydra.run.dir={run}", *overrides)
        assert outcome.code == 0, outcome.text
        assert "Traceback" not in outcome.text
        return run, json.loads((run / "interval.json").read_text()), outcome.text

    return measure


@pytest.fixture(scope="module")
def direction(scripts, tmp_path_factory):
    """A direction file for the random network: ``direction(FINGERPRINT, KIND, **INFO)``."""
    model = HSpaceUNet(UNet2DModel.from_pretrained(scripts.unet), "custom")

    def write(fingerprint=None, kind="global", **texts):
        arguments = direction_arguments(kind, model.h_channels, model.h_size, model.temb_channels, ())
        if kind == "pullback":
            pixels, how = {"channels": 3, "image_size": 32}, {"step": 0.04, "transported": True}
            arguments |= {**pixels, **how, "rank": 1, "iterations": 1}
        module = make_direction(kind, **arguments)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        known = {"attribute": "glasses", "src_text": "person with no glasses", "trg_text": "person with glasses"}
        network = {"base_model": "custom", "base_fingerprint": fingerprint or model.fingerprint()}
        info = DirectionInfo(kind, arguments, **known | texts, **network, t_edit=333, t_boost=0, num_steps=4)
        path = tmp_path_factory.mktemp("direction") / "glasses.safetensors"
        save_direction(path, module, info)
        return path

    return write
