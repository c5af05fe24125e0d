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


def build(clip, strengths):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["attr=glasses", f"method.train_strengths={strengths}"])
    return build_loss(cfg, clip, resolve_attribute(cfg.attr, cfg.model.domain))


@pytest.mark.parametrize(("glasses", "has"), [("glasses", True), ("no", False)])
def test_a_slider_reads_the_attribute_from_images(clip, glasses, has):
    source = PortraitSource("val", 8, 64, {"glasses": [glasses]})
    images = torch.stack([source[i].x_0 for i in range(8)])
    assert build(clip, "[-0.5,1]").read_as_target(clip.encode_images(images)).tolist() == [has] * 8


@pytest.mark.parametrize("strengths", ["[1,1]", "[0,2]"])
def test_without_strengths_below_0_it_is_no_slider(clip, strengths):
    assert build(clip, strengths).contrast is None
