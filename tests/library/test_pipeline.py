"""The pipeline edits as the library does, and one folder brings it back."""

import copy
import io
from contextlib import redirect_stderr
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from torch.testing import assert_close

import asyrp_lit
from asyrp_lit import AsyrpPipeline
from asyrp_lit.models import fetch


def show(edits):
    return (edits / 2 + 0.5).clamp(0, 1)


def test_a_call_is_an_edit_of_the_library(pipe, photos):
    edits = asyrp_lit.edit(pipe.model, photos, pipe.directions["boosted"], 0.5)
    assert torch.equal(pipe(photos, "boosted", 0.5, output_type="pt").images, show(edits))
    arrays = pipe(photos, "boosted", 0.5, output_type="np").images
    assert np.array_equal(arrays, show(edits).permute(0, 2, 3, 1).numpy())
    (pictures,) = pipe(photos, "boosted", 0.5, return_dict=False)
    assert all(np.array_equal(a, b) for a, b in zip(pictures, asyrp_lit.to_pil(edits), strict=True))


def test_a_mask_is_that_of_the_library(pipe, photos):
    half = Image.new("L", (90, 40), 255)
    half.paste(0, (0, 0, 45, 40))
    edits = asyrp_lit.edit(pipe.model, photos[0], pipe.directions["smiling"], where=half)
    assert torch.equal(pipe(photos[0], "smiling", where=half, output_type="pt").images, show(edits))
    with pytest.raises(ValueError, match="that was given is black everywhere"):
        pipe(photos[0], "smiling", where=Image.new("L", (5, 5)))


def test_several_directions_and_strengths_give_every_combination(pipe, photos):
    both = [pipe.directions[name] for name in ("smiling", "glasses")]
    latents = pipe.invert(photos[:2], 4)
    found = pipe(latents, ["smiling", "glasses"], [[0, 1], 0.7], output_type="pt").images
    assert torch.equal(found, show(asyrp_lit.edit(pipe.model, latents, both, [[0, 1], 0.7])))
    assert len(found) == 4


def test_strength_0_is_the_reconstruction(pipe, photos):
    edit = pipe(photos[0], "smiling", 0, output_type="pt").images
    assert_close(edit, pipe.reconstruct(photos[0], 4, "pt").images, atol=1e-5, rtol=0)


def test_pictures_tensors_and_arrays_agree(pipe, photos):
    tensor = show(asyrp_lit.to_tensor(photos, 32))
    wanted = pipe(photos, "smiling", output_type="pt").images
    array = tensor.permute(0, 2, 3, 1).numpy()
    for form in (tensor, array, [*tensor], [*array], [tensor[:2], tensor[2]], array[:, :, ::-1].copy()[:, :, ::-1]):
        assert_close(pipe(form, "smiling", output_type="pt").images, wanted, atol=1e-4, rtol=0)


def test_a_folder_brings_everything_back(pipe, photos, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    again = AsyrpPipeline.from_pretrained(tmp_path / "pipe")
    assert list(again.directions) == ["boosted", "glasses", "smiling"]
    for name in again.directions:
        wanted = pipe(photos[0], name, output_type="pt").images
        assert torch.equal(again(photos[0], name, output_type="pt").images, wanted)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors", ".py"}
    assert asyrp_lit.load_model(tmp_path / "pipe").fingerprint() == pipe.model.fingerprint()
    again.save_pretrained(tmp_path / "pipe")  # over itself


def test_other_users_of_diffusers_load_the_folder(pipe, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipe.save_pretrained(tmp_path / "pipe")
    options = {"custom_pipeline": "pipeline", "trust_remote_code": True}
    found = DiffusionPipeline.from_pretrained(str(tmp_path / "pipe"), **options)
    wanted = pipe(photos[0], "smiling", output_type="pt").images
    assert torch.equal(found(photos[0], "smiling", output_type="pt").images, wanted)
    plain = DDIMPipeline.from_pretrained(str(tmp_path / "pipe"))
    assert plain(num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)


def test_a_relative_folder_is_found_after_a_change_of_folder(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    options = {"custom_pipeline": "pipeline", "trust_remote_code": True}
    found = DiffusionPipeline.from_pretrained("pipe", **options)
    monkeypatch.chdir("/")
    assert list(found.directions) == ["boosted", "glasses", "smiling"]


def test_a_pipeline_is_made_of_the_parts_of_another(pipe, model):
    again = AsyrpPipeline.from_pipe(pipe)
    assert list(again.directions) == ["smiling", "glasses", "boosted"]
    assert (again.unet, again.model.name) == (pipe.unet, pipe.model.name)
    other = AsyrpPipeline.from_pipe(DDIMPipeline(model.unet, DDIMScheduler()), base_model="mine")
    assert (other.unet, other.model.name, dict(other.directions)) == (model.unet, "mine", {})


def test_a_pipeline_of_others_is_a_base_model(model, tmp_path):
    DDIMPipeline(model.unet, DDIMScheduler()).save_pretrained(tmp_path / "base")
    pipe = AsyrpPipeline.from_pretrained(tmp_path / "base")
    assert (dict(pipe.directions), pipe.model.name) == ({}, "base")
    assert pipe.model.fingerprint() == model.fingerprint()


def test_a_repository_of_the_hub_comes_with_its_directions(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "pipe")
    asked = []
    monkeypatch.setattr(fetch, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path / "pipe"))
    again = AsyrpPipeline.from_pretrained("someone/avatars", revision="v1")
    assert list(again.directions) == ["boosted", "glasses", "smiling"]
    assert (asked[0][0], asked[0][1]["revision"]) == (("someone/avatars",), "v1")
    assert any(fnmatch("directions/smiling.safetensors", pattern) for pattern in asked[0][1]["allow_patterns"])


@pytest.mark.parametrize("place", ["no-such-folder", "/no/such/folder", "someone/nothing"])
def test_a_pipeline_that_is_nowhere_is_named(place):
    with pytest.raises(FileNotFoundError, match=f"no folder {place}, and the Hugging Face hub"):
        AsyrpPipeline.from_pretrained(place, local_files_only=True)


def test_weights_in_a_lower_precision_are_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    low = asyrp_lit.load_model(tmp_path / "pipe").unet.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"must be float32, got torch\.bfloat16: load them .* call pipe\.to"):
        AsyrpPipeline(low, DDIMScheduler())


def test_without_images_it_samples_with_the_generator(pipe):
    drawn = [
        pipe(batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(s), output_type="pt").images
        for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    generator = torch.Generator().manual_seed(0)
    edited = pipe(direction="smiling", strength=3, batch_size=2, generator=generator, output_type="pt").images
    assert (edited - drawn[0]).abs().mean() > 1e-3


def test_one_generator_an_image_makes_its_noise_its_own(pipe, photos):
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    together = pipe(photos[:2], "boosted", generator=generators, output_type="pt").images
    alone = pipe(photos[1], "boosted", generator=[torch.Generator().manual_seed(6)], output_type="pt").images
    assert_close(together[1:], alone, atol=1e-4, rtol=0)
    other = pipe(photos[1], "boosted", generator=torch.Generator().manual_seed(7), output_type="pt").images
    assert not torch.equal(alone, other)


def test_a_lower_precision_is_that_of_the_passes_only(pipe, photos, tmp_path):
    wanted = pipe(photos[0], "smiling", output_type="pt").images
    fingerprint = pipe.model.fingerprint()
    assert pipe.to("cpu", torch.bfloat16).dtype == torch.bfloat16
    assert (pipe.unet.dtype, pipe.model.fingerprint()) == (torch.float32, fingerprint)
    low = pipe(photos[0], "smiling", output_type="pt").images
    with torch.autocast("cpu", torch.bfloat16):
        edits = asyrp_lit.edit(pipe.model, photos[0], pipe.directions["smiling"])
    assert torch.equal(low, show(edits))
    assert not torch.equal(low, wanted)
    pipe.save_pretrained(tmp_path / "pipe")
    assert AsyrpPipeline.from_pretrained(tmp_path / "pipe", torch_dtype=torch.bfloat16).dtype == torch.bfloat16
    assert AsyrpPipeline.from_pretrained(tmp_path / "pipe").dtype == torch.float32


def test_bars_count_the_passes(pipe, photos):
    pipe.set_progress_bar_config(disable=False, mininterval=0)
    with redirect_stderr(io.StringIO()) as shown:
        pipe(photos[0], "smiling", [0.5, 1])
    assert "3/3" in shown.getvalue()  # of the inversion
    assert "4/4" in shown.getvalue()
    assert not pipe.unet.conv_in._forward_hooks


def test_the_bar_ends_where_equal_strengths_are_edited_once(pipe, photos):
    latents = pipe.invert(photos[0], 4)
    pipe.set_progress_bar_config(disable=False, mininterval=0)
    with redirect_stderr(io.StringIO()) as shown:
        pipe(latents, "smiling", [1.0] * 5, images_per_pass=2)
    assert "4/4" in shown.getvalue()


def test_another_network_makes_the_directions_strange(pipe, unet, photos):
    pipe.unet = asyrp_lit.load_model(unet).unet  # the same weights
    pipe(photos[0], "smiling")
    pipe.unet.conv_in.weight.data.add_(1)
    pipe.unet = copy.deepcopy(pipe.unet)
    with pytest.raises(ValueError, match="direction smiling was trained on"):
        pipe(photos[0], "smiling")


def test_another_schedule_or_network_is_refused(model):
    assert AsyrpPipeline(model.unet, DDPMScheduler()).model.name == "custom"
    assert AsyrpPipeline(model.unet, PNDMScheduler()).model.name == "custom"
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler says beta_schedule=unknown"):
        AsyrpPipeline(model.unet, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="DDIMScheduler says beta_schedule=scaled_linear"):
        AsyrpPipeline(model.unet, DDIMScheduler(beta_schedule="scaled_linear"))
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=True"):
        AsyrpPipeline(model.unet, DDIMScheduler(rescale_betas_zero_snr=True))
    texts = UNet2DConditionModel(
        8, block_out_channels=(4, 4), norm_num_groups=2, cross_attention_dim=4, attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must be an unconditional UNet2DModel, got a UNet2DConditionModel"):
        AsyrpPipeline(texts, DDIMScheduler())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "beard"}, "has no direction 'beard', it has smiling, glasses, boosted"),
        ({"direction": None}, r"must name one of smiling, glasses, boosted; pipe\.reconstruct"),
        ({"output_type": "latent"}, "output_type must be one of pil, np, pt"),
        ({"strength": float("inf")}, "strength must be finite numbers"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number, 2 or more, got 0"),
        ({"num_inference_steps": 2000}, "num_steps must be 2 to"),
        ({"batch_size": 3}, "batch_size is how many samples to draw where no image is given, got 3 and an image"),
        ({"image": None, "direction": None, "t_boost": 500}, "t_boost needs a direction: name one of smiling"),
        ({"image": None, "direction": None, "strength": [1, 2, 3]}, "strength needs a direction: name one of smiling"),
        ({"t_edit": 1000}, "no step edits"),
        ({"images_per_pass": 0}, "images_per_pass must be a whole number, 1 or more, got 0"),
        ({"image": None, "batch_size": 0}, "batch_size must be a whole number, 1 or more, got 0"),
        ({"image": torch.full((1, 3, 32, 32), -1.0)}, r"floats in \[0, 1\], as in the rest of diffusers"),
        ({"image": np.zeros((64, 64))}, r"arrays \(B, S, S, 3\) or \(S, S, 3\), got \(64, 64\)"),
        ({"image": [torch.zeros(3, 16, 16)]}, r"must be \(B, 3, 32, 32\) for this model, got \(3, 16, 16\)"),
        ({"generator": [torch.Generator()] * 2}, "one for each of the 1 images, got 2"),
    ],
)
def test_an_impossible_call_is_refused(pipe, photos, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{"image": photos[0], "direction": "smiling", **options})


@pytest.mark.parametrize("direction", [None, "smiling"])
def test_an_option_that_does_not_exist_is_refused(pipe, direction):
    with pytest.raises(TypeError, match="there is no option guidance_scale; options are t_edit, t_boost"):
        pipe(direction=direction, num_inference_steps=4, guidance_scale=7)


def test_names_and_dtypes_that_cannot_be_are_refused(pipe, files):
    with pytest.raises(ValueError, match="letters, digits"):
        pipe.add_direction(files["smiling"], "../smiling")
    with pytest.raises(ValueError, match="was trained on other"):
        pipe.add_direction(files["stranger"])
    with pytest.raises(ValueError, match="dtype must be one of"):
        pipe.to(torch.float64)


def test_the_embedded_pipeline_has_the_embedded_model(tmp_path):
    pipe = AsyrpPipeline.from_embedded()
    pipe.save_pretrained(tmp_path)
    again = AsyrpPipeline.from_pretrained(tmp_path)
    assert again.model.name == "ddpmpp_avatars"
    assert list(again.directions) == list(pipe.directions)
