"""Folders of the pipeline: what they hold, what brings it back, and what is refused."""

import pytest

import asyrp_lit
from asyrp_lit import AsyrpPipeline


def test_a_variant_comes_back_by_its_name(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe", variant="ours")
    assert [path.name for path in (tmp_path / "pipe/unet").glob("*.safetensors")] == [
        "diffusion_pytorch_model.ours.safetensors"
    ]
    again = AsyrpPipeline.from_pretrained(tmp_path / "pipe", variant="ours")
    assert again.model.fingerprint() == pipe.model.fingerprint()
    assert set(again.directions) == set(pipe.directions)


def test_a_network_that_is_given_takes_the_place_of_the_folder_s(pipe, unet, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    given = asyrp_lit.load_model(unet).unet
    assert AsyrpPipeline.from_pretrained(tmp_path / "pipe", unet=given).unet is given


def test_saving_over_other_directions_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    pipe.remove_direction("glasses")
    with pytest.raises(FileExistsError, match=r"has not \(glasses\)"):
        pipe.save_pretrained(tmp_path / "pipe")
    with pytest.raises(ValueError, match="safetensors only"):
        pipe.save_pretrained(tmp_path / "other", safe_serialization=False)


def test_a_folder_with_a_strange_direction_is_refused(pipe, files, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    (tmp_path / "pipe/directions/stranger.safetensors").write_bytes(files["stranger"].read_bytes())
    with pytest.raises(ValueError, match="was trained on other"):
        AsyrpPipeline.from_pretrained(tmp_path / "pipe")


def test_a_folder_without_weights_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pipe")
    (tmp_path / "pipe/unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="does not exist; a diffusers UNet2DModel folder holds it"):
        AsyrpPipeline.from_pretrained(tmp_path / "pipe")
