import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from asyrp_lit.losses.clip import (
    FrozenCLIP,
    ImageNormalisation,
    build_avatars_clip,
    choose_templates,
    imagenet_templates,
    load_clip,
    prepare_images,
)

OPENAI = ImageNormalisation(32, (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758))
TINY_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return FrozenCLIP(*build_avatars_clip(), "random")


@pytest.fixture
def tiny_clip(tmp_path, monkeypatch):
    """An architecture of the user's own, and a file of weights for it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "asyrp-lit-tiny.json").write_text(json.dumps(TINY_CONFIG))
    open_clip.add_model_config(tmp_path / "asyrp-lit-tiny.json")
    torch.manual_seed(0)
    model = open_clip.create_model("asyrp-lit-tiny")
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    return model.eval(), tmp_path / "tiny.safetensors"


def draw_pixels(size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (2, 3, size // 4, size // 4), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def transform_with_pil(pixels, expected):
    transform = image_transform(expected.size, is_train=False, mean=expected.mean, std=expected.std)
    return torch.stack([transform(Image.fromarray(np.moveaxis(one.numpy(), 0, -1))) for one in pixels])


def test_preparation_is_open_clip_s_own_at_native_size():
    pixels = draw_pixels(32)
    assert_close(prepare_images(pixels / 127.5 - 1, OPENAI), transform_with_pil(pixels, OPENAI), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 64])
def test_preparation_is_open_clip_s_own_but_for_its_rounding_and_clipping_at_other_sizes(size):
    """PIL rounds to 8 bits and clips what bicubic overshoots; so the images here are far from black and white."""
    pixels = draw_pixels(size) // 2 + 64
    difference = prepare_images(pixels / 127.5 - 1, OPENAI) - transform_with_pil(pixels, OPENAI)
    assert difference.abs().max() < 2 / 255 / min(OPENAI.std)


def test_preparation_neither_clips_nor_stops_gradients():
    x = torch.full((1, 3, 32, 32), 5.0, requires_grad=True)
    prepared = prepare_images(x, OPENAI)
    assert prepared.min() > (3 - 0.49) / 0.28
    prepared.sum().backward()
    assert x.grad.abs().min() > 0


def test_embeddings_have_unit_length_and_gradients_reach_images_alone(clip):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    embeddings = clip.encode_images(x)
    assert_close(embeddings.norm(dim=1), torch.ones(2))
    embeddings[0, 0].backward()
    assert x.grad[0].abs().sum() > 0
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in clip.parameters())


def test_it_stays_in_eval_mode(clip):
    assert not any(module.training for module in clip.train().modules())


def test_an_image_s_embedding_does_not_depend_on_its_batch(clip):
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert_close(clip.encode_images(x)[1:2], clip.encode_images(x[1:2]), atol=1e-6, rtol=1e-5)


def test_texts_are_embedded_one_by_one(clip):
    together = clip.encode_texts(["face", "smiling face"])
    assert_close(together[1:], clip.encode_texts(["smiling face"]), atol=1e-6, rtol=1e-5)
    assert_close(together.norm(dim=1), torch.ones(2))
    assert together[0] @ together[1] < 0.9999


def test_the_embedded_clip_loads_without_a_network():
    clip = load_clip()
    assert (clip.name, clip.expected.size) == ("avatars", 64)
    assert clip.encode_images(torch.zeros(1, 3, 64, 64)).shape == clip.encode_texts(["face"]).shape == (1, 128)


def test_the_embedded_architecture_takes_a_file_of_weights(clip, tmp_path):
    save_file(clip.model.state_dict(), tmp_path / "own.safetensors")
    loaded = load_clip("avatars", str(tmp_path / "own.safetensors"))
    assert_close(loaded.encode_texts(["face"]), clip.encode_texts(["face"]), atol=0, rtol=0)


def test_a_missing_file_for_the_embedded_architecture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"own\.safetensors"):
        load_clip("avatars", str(tmp_path / "own.safetensors"))


def test_any_open_clip_architecture_loads_from_a_local_file(tiny_clip):
    model, weights = tiny_clip
    clip = load_clip("asyrp-lit-tiny", str(weights))
    pixels = draw_pixels(64)
    prepared = prepare_images(pixels / 127.5 - 1, clip.expected)
    assert (clip.name, clip.expected.size) == ("asyrp-lit-tiny/tiny.safetensors", 32)
    expected = torch.nn.functional.normalize(model.encode_image(prepared), dim=-1)
    assert_close(clip.encode_images(pixels / 127.5 - 1), expected)
    assert clip.encode_texts(["a face", "a smiling face"]).shape == (2, 16)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="open_clip has no model 'ViT-B-17'; take 'avatars' or one of"):
        load_clip("ViT-B-17", "openai")


def test_another_model_than_the_embedded_one_needs_weights():
    with pytest.raises(ValueError, match=r"clip\.weights is needed for ViT-B-16: a tag such as 'openai'"):
        load_clip("ViT-B-16")


def test_weights_that_are_neither_a_file_nor_a_tag_are_refused_with_the_tags():
    with pytest.raises(FileNotFoundError, match=r"'opnai' are neither a file nor a tag of ViT-B-16 \(tags: .*openai"):
        load_clip("ViT-B-16", "opnai")


def test_there_are_80_imagenet_templates_with_one_place_each():
    """Radford et al. 2021."""
    templates = imagenet_templates()
    assert len(set(templates)) == len(templates) == 80
    assert all(template.count("{}") == 1 for template in templates)
    assert "a bad photo of a {}." in templates


def test_templates_by_name():
    assert choose_templates("imagenet") == imagenet_templates()
    assert choose_templates("none") == ("{}",)
    with pytest.raises(ValueError, match=r"clip\.templates must be 'imagenet' or 'none', got 'all'"):
        choose_templates("all")
