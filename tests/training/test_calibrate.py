"""What strength 1 means after training."""

import importlib

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from asyrp_lit.data.latents import from_uint8
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.scale import scale_delta
from asyrp_lit.losses.directional import directional_cosine
from asyrp_lit.training.calibrate import choose_strength, measure_cosines

stage = importlib.import_module("asyrp_lit.stages.calibrate")
STRENGTHS = [0.5, 1.0, 2.0]


def measure(module, x_0, x_T, strengths=STRENGTHS, batch_size=4):
    common = (module.loss.text_direction, strengths, module.grid, module.interval, module.alphas_cumprod)
    return measure_cosines(
        module.model, module.loss.clip, module.direction, x_0, x_T, *common, batch_size=batch_size, progress=False
    )


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 16, 16, generator=generator) * 2 - 1, torch.randn(5, 3, 16, 16, generator=generator)


def test_the_cosines_are_those_of_finished_edits_whatever_the_batch(tiny, images):
    x_0, x_T = images
    module = tiny.make_module()
    scale_delta(module.direction, 30.0)
    expected = []
    for strength in STRENGTHS:
        direction = Scaled(module.direction, strength)
        interval = module.interval._replace(t_boost=0)
        edited = sample_images(module.model, x_T, module.grid, module.alphas_cumprod, direction, interval)
        source = module.loss.clip.encode_images(x_0)
        cosine = directional_cosine(module.loss.clip.encode_images(edited), source, module.loss.text_direction)
        expected.append(cosine.mean())
    assert len({round(float(cosine), 4) for cosine in expected}) == 3
    for batch_size in (1, 6, 100):
        torch.testing.assert_close(
            torch.tensor(measure(module, x_0, x_T, batch_size=batch_size)), torch.stack(expected)
        )


def test_a_scaled_direction_at_strength_1_is_the_one_that_was_chosen(tiny, images):
    module = tiny.make_module()
    before = measure(module, *images)
    scale_delta(module.direction, 2.0)
    torch.testing.assert_close(measure(module, *images, strengths=[0.25, 0.5, 1.0]), before)


@pytest.mark.parametrize("left", [0, 3, 8])
def test_a_slider_is_calibrated_on_images_that_are_not_at_the_target(tiny, tmp_path, monkeypatch, caplog, left):
    """Of eight images set aside, so many read as the source text."""
    data = tiny.make_data(tmp_path, num_train=10)
    data.setup("fit")
    store, contrast = data.stores["train"], tiny.Ends()
    module = tiny.make_module(contrast=contrast)
    reads = torch.arange(8) >= left
    monkeypatch.setattr(contrast, "read", lambda embeddings: torch.stack([~reads, reads], dim=-1).float())
    asked = []
    monkeypatch.setattr(stage, "measure_cosines", lambda *call, **options: asked.append(call[3:5]) or [0.5, 0.6])
    cfg = {"trainer": {"accelerator": "cpu", "precision": "32-true"}, "inversion_batch_size": 4}
    stage.calibrate(OmegaConf.create(cfg | {"method": {"calibration": {"strengths": [1, 0.5]}}}), module, store, 2)
    if left:
        assert_close(asked[0][0], torch.stack([from_uint8(store[i]["x_0"]) for i in range(2, 2 + left)]))
        assert_close(asked[0][1], torch.stack([store[i]["x_T"] for i in range(2, 2 + left)]))
    assert module.strength == (0.5 if left else 1)
    assert ("all 8 images set aside read as the target text already" in caplog.text) == (left == 0)


@pytest.mark.parametrize(
    ("cosines", "chosen"),
    [((0.1, 0.3, 0.5), 0.7), ((0.485, 0.3, 0.5), 0.7), ((0.495, 0.3, 0.5), 1.2), ((0.1, 0.5, 0.4), 0.4)],
)
def test_the_largest_strength_of_about_the_best_cosine_is_chosen(cosines, chosen):
    assert choose_strength([1.2, 0.4, 0.7], cosines) == chosen
