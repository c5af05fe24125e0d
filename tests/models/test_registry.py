"""Base models from files on disk, as the scripts load them."""

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch.testing import assert_close

from asyrp_lit.models import registry
from asyrp_lit.models.convert_adm import config_from_adm
from asyrp_lit.models.convert_ddpm import config_from_ddpm
from asyrp_lit.models.registry import load_base_model, load_folder

GOLDENS = Path(__file__).parents[1] / "goldens"
TINY = {"sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "attention_head_dim": None}
TINY |= {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def read_golden(name):
    meta = json.loads((GOLDENS / f"{name}.json").read_text())
    tensors = load_file(GOLDENS / f"{name}.safetensors")
    return meta, tensors, {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}


@pytest.fixture(params=["ddpm", "iddpm", "adm"])
def released(request, tmp_path):
    """A checkpoint in an original key style, what ``model=custom`` says of it, and the vectors that it must give."""
    meta, tensors, weights = read_golden(request.param)
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "model.pt")
    constructor = meta["constructor"]
    options = {"image_size": constructor["image_size"], "num_head_channels": constructor.get("num_head_channels")}
    options["norm_eps"] = 1e-6 if request.param == "ddpm" else 1e-5
    return tmp_path / "model.pt", options, meta, tensors


def load(path, tmp_path, **options):
    return load_base_model("mine", cache=tmp_path / "cache", weights=path, **options)


def assert_golden(model, meta, tensors):
    for row, t in enumerate(meta["t_list"]):
        eps = model(tensors["x_t"], torch.full((2,), t))
        assert_close(eps, tensors["eps"][row], atol=1e-5, rtol=0)


def test_a_checkpoint_on_disk_gives_the_released_eps(released, tmp_path):
    path, options, meta, tensors = released
    assert_golden(load(path, tmp_path, **options), meta, tensors)


def test_conversion_happens_once_and_its_folder_gives_the_same(released, tmp_path, monkeypatch):
    path, options, meta, tensors = released
    first = load(path, tmp_path, **options)
    monkeypatch.setattr(registry, "read_checkpoint", lambda *_: pytest.fail("converted again"))
    assert load(path, tmp_path, **options).fingerprint() == first.fingerprint()
    (folder,) = (tmp_path / "cache/converted").iterdir()
    assert_golden(load_folder("mine", folder), meta, tensors)
    assert json.loads((folder / "source.json").read_text())["fingerprint"] == first.fingerprint()


def cut(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def change(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 255
    path.write_bytes(content)


def empty_record(folder):
    (folder / "source.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, change, empty_record])
def test_a_damaged_conversion_is_made_anew(tmp_path, damage, caplog):
    torch.save(read_golden("ddpm")[2], tmp_path / "model.pt")
    first = load(tmp_path / "model.pt", tmp_path, image_size=32, norm_eps=1e-6)
    (folder,) = (tmp_path / "cache/converted").iterdir()
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path / "model.pt", tmp_path, image_size=32, norm_eps=1e-6).fingerprint() == first.fingerprint()
    assert f"base model mine is converted anew, for {folder} is damaged" in caplog.text
    assert load_folder("mine", folder).fingerprint() == first.fingerprint()
    assert list((tmp_path / "cache/converted").iterdir()) == [folder]


def test_other_bytes_or_settings_are_converted_anew(tmp_path):
    _, _, weights = read_golden("adm")
    for scale, width, norm_eps in ((1, 16, 1e-5), (2, 16, 1e-5), (1, 32, 1e-5), (1, 16, 1e-6)):
        torch.save({key: scale * value for key, value in weights.items()}, tmp_path / "model.pt")
        load(tmp_path / "model.pt", tmp_path, image_size=32, num_head_channels=width, norm_eps=norm_eps)
    assert len(list((tmp_path / "cache/converted").iterdir())) == 4


def test_a_cache_that_cannot_be_written_costs_a_warning(released, tmp_path, caplog):
    path, options, meta, tensors = released
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert_golden(load(path, tmp_path, **options), meta, tensors)
    assert "the converted model is not kept" in caplog.text


@pytest.mark.parametrize(("name", "is_adm"), [("ddpm", True), ("adm", False)])
def test_a_checkpoint_of_the_other_family_is_named(tmp_path, name, is_adm):
    torch.save(read_golden(name)[2], tmp_path / "model.pt")
    make = config_from_adm if is_adm else config_from_ddpm
    config = make(32, 32, (1, 2), 1, (16,))
    with pytest.raises(ValueError, match=r"model\.pt: it has the keys of a .*, but this model is a "):
        load(tmp_path / "model.pt", tmp_path, image_size=32, config=config)


@pytest.mark.parametrize(
    ("name", "key"), [("ddpm", "mid.block_1.conv1.weight"), ("adm", "middle_block.0.out_layers.3.bias")]
)
def test_a_key_too_few_or_too_many_is_named(tmp_path, name, key):
    weights = read_golden(name)[2]
    for changed in ({k: v for k, v in weights.items() if k != key}, weights | {f"{key}.more": torch.zeros(1)}):
        torch.save(changed, tmp_path / "model.pt")
        with pytest.raises(
            ValueError, match=r"base model mine: .*model\.pt: state_dict (lacks|has keys).*\(1 in all\)"
        ):
            load(tmp_path / "model.pt", tmp_path, image_size=32, num_head_channels=16, norm_eps=1e-5)


@pytest.fixture
def folder(tmp_path):
    unet = UNet2DModel(**TINY)
    unet.save_pretrained(tmp_path / "unet", safe_serialization=True)
    return unet, tmp_path / "unet"


def test_a_folder_of_a_pipeline_is_read_below_unet(folder, tmp_path):
    unet, _ = folder
    found = load(tmp_path, tmp_path, image_size=8).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in unet.state_dict().items())


def test_weights_lie_where_every_kernel_rounds_alike(folder):
    """At multiples of 64 bytes; in a file they lie at any, and eps then differed in its last bits."""
    assert all(value.data_ptr() % 64 == 0 for value in load_folder("x", folder[1]).unet.parameters())


def test_the_attention_keys_of_old_hub_folders_are_known(folder):
    unet, path = folder
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = unet.state_dict()
    for new, name in old.items():
        weights = {key.replace(new, name): value for key, value in weights.items()}
    (path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights, path / "diffusion_pytorch_model.bin")
    found = load_folder("old", path).unet.state_dict()
    assert all(torch.equal(found[key], value) for key, value in unet.state_dict().items())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"_class_name": "UNet2DConditionModel"}, "holds a UNet2DConditionModel, not a UNet2DModel"),
        (
            "scheduler_config.json",
            {"beta_schedule": "squaredcos_cap_v2"},
            "says beta_schedule=squaredcos_cap_v2; .* needs",
        ),
        ("scheduler_config.json", {"prediction_type": "v_prediction"}, "says prediction_type=v_prediction"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, file, change, message):
    path = folder[1] / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))
    with pytest.raises(ValueError, match=message):
        load_folder("x", folder[1])


def test_weights_that_do_not_fit_their_folder_are_refused(folder):
    path = folder[1] / "config.json"
    for change, message in (({"layers_per_block": 2}, "missing keys"), ({"out_channels": 6}, "do not fit")):
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_folder("x", folder[1])
        path.write_text(json.dumps(config))
    (folder[1] / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot be read"):
        load_folder("x", folder[1])


def test_a_folder_without_its_files_is_named(folder, tmp_path):
    (folder[1] / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors does not exist"):
        load_folder("x", folder[1])
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_folder("x", tmp_path / "unet" / "nothing")


def test_a_folder_says_its_own_size_and_heads(folder, tmp_path):
    with pytest.raises(ValueError, match=r"images of 8 px, but model\.image_size is 64"):
        load(folder[1], tmp_path, image_size=64)
    with pytest.raises(ValueError, match="says its own head width"):
        load(folder[1], tmp_path, image_size=8, num_head_channels=16)


@pytest.mark.parametrize(
    ("name", "given", "asked"),
    [
        ("ddpm", {}, "give model.norm_eps=1e-6, the eps of GroupNorms in the code of such files$"),
        ("adm", {"norm_eps": 1e-5}, "give model.num_head_channels=64, the width of an attention head in the released"),
        ("adm", {}, "give model.num_head_channels=64, .* and model.norm_eps=1e-5"),
    ],
)
def test_what_shapes_do_not_tell_is_asked_for(name, given, asked, tmp_path):
    meta, _, weights = read_golden(name)
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=asked):
        load(tmp_path / "model.pt", tmp_path, image_size=meta["constructor"]["image_size"], **given)
