"""The LightningModule as a configuration asks for it."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.hspace.attribute import resolve_attribute
from asyrp_lit.losses.clip import load_clip
from asyrp_lit.stages.module import build_loss

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture(scope="module")
def clip():
    return load_clip()


@pytest.mark.parametrize(("strengths", "slider"), [("[1,1]", False), ("[0,2]", False), ("[-0.5,1]", True)])
def test_a_slider_reads_the_attribute_from_images(clip, strengths, slider):
    """Eight portraits with glasses and eight without."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["attr=glasses", f"method.train_strengths={strengths}"])
    loss = build_loss(cfg, clip, resolve_attribute(cfg.attr, cfg.model.domain))
    assert (loss.contrast is not None) == slider
    for glasses in ("glasses", "no"):
        source = PortraitSource("val", 8, 64, {"glasses": [glasses]})
        images = torch.stack([source[i].x_0 for i in range(8)])
        reads = loss.read_as_target(clip.encode_images(images))
        assert reads.tolist() == [slider and glasses == "glasses"] * 8
