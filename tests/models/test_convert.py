import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.models import convert_adm, convert_ddpm
from asyrp_lit.models.convert import rename_modules
from asyrp_lit.models.convert_adm import config_from_adm, convert_adm_state_dict, merge_legacy_qkv, split_legacy_qkv
from asyrp_lit.models.convert_ddpm import config_from_ddpm, convert_ddpm_state_dict
from asyrp_lit.models.registry import convert_state_dict, infer_config

TINY = {"sample_size": 8, "block_out_channels": (32,), "layers_per_block": 1}
TINY |= {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}


def count_parameters(config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UNet2DModel(**config).parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (config_from_ddpm(256, 128, (1, 1, 2, 2, 4, 4), 2, (16,)), 113_673_219),
        (config_from_adm(256, 128, (1, 1, 2, 2, 4, 4), 1, (16,)), 93_563_910),
        (config_from_adm(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8)), 552_814_086),
    ],
    ids=["ddpm", "iddpm", "adm_imagenet"],
)
def test_configs_have_the_released_parameter_counts(config, expected):
    assert count_parameters(config) == expected


def test_legacy_qkv_rows_are_ordered_head_first():
    head_0, head_1 = torch.arange(6), torch.arange(6, 12)  # two heads of two channels: q q k k v v
    query, key, value = split_legacy_qkv(torch.cat([head_0, head_1]), head_dim=2)
    assert query.tolist() == [0, 1, 6, 7]
    assert key.tolist() == [2, 3, 8, 9]
    assert value.tolist() == [4, 5, 10, 11]


def test_qkv_of_another_head_width_is_refused():
    with pytest.raises(ValueError, match="num_head_channels must divide 32 channels"):
        split_legacy_qkv(torch.zeros(96), head_dim=64)


@pytest.fixture
def identity():
    state_dict = UNet2DModel(**TINY).state_dict()
    return state_dict, {key.rpartition(".")[0]: key.rpartition(".")[0] for key in state_dict}


def test_every_source_key_must_have_a_place(identity):
    state_dict, modules = identity
    with pytest.raises(ValueError, match=r"keys without a place .*\(1 in all\): label_emb.weight"):
        rename_modules(state_dict | {"label_emb.weight": torch.zeros(1)}, modules, TINY)


def test_every_target_key_must_be_set(identity):
    state_dict, modules = identity
    del state_dict["conv_in.bias"]
    with pytest.raises(ValueError, match=r"lacks .*\(1 in all\): conv_in.bias"):
        rename_modules(state_dict, modules, TINY)


def test_shapes_must_agree(identity):
    state_dict, modules = identity
    state_dict["conv_in.bias"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"conv_in.bias \(7,\) instead of \(32,\)"):
        rename_modules(state_dict, modules, TINY)


def test_one_by_one_convolutions_become_linear(identity):
    state_dict, modules = identity
    name = "mid_block.attentions.0.to_q.weight"
    as_convolution = state_dict | {name: state_dict[name][:, :, None, None]}
    assert torch.equal(rename_modules(as_convolution, modules, TINY)[name], state_dict[name])


def test_the_other_family_is_refused_by_name():
    with pytest.raises(ValueError, match=r"conv_in\.weight.*check the file's family"):
        convert_adm_state_dict({"conv_in.weight": torch.zeros(1)}, config_from_adm(16, 32, (1, 2), 1, (8,), 32))
    with pytest.raises(ValueError, match=r"time_embed\.0\.weight.*check the file's family"):
        convert_ddpm_state_dict({"time_embed.0.weight": torch.zeros(1)}, config_from_ddpm(16, 32, (1, 2), 1, (8,)))


@pytest.mark.parametrize(
    ("image_size", "resolutions", "message"),
    [(16, (32,), r"attention_resolutions must be among \[16, 8\]"), (15, (), r"image_size must be a multiple of 2\^1")],
)
def test_impossible_resolutions_are_refused(image_size, resolutions, message):
    with pytest.raises(ValueError, match=message):
        config_from_ddpm(image_size, 32, (1, 2), 1, resolutions)


def give_original_keys(config, pairs):
    """The state dict of UNet2DModel(**config) under the original keys, on the meta device."""
    with torch.device("meta"):
        weights = UNet2DModel(**config).state_dict()
    original = {new: old for old, new in pairs}
    renamed = {f"{original[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in weights.items()}
    for key in [key for key in renamed if ".q." in key and "time_embed.0.weight" in renamed]:
        parts = [renamed.pop(key.replace(".q.", f".{name}.")) for name in "qkv"]
        renamed[key.replace(".q.", ".qkv.")] = merge_legacy_qkv(*parts, head_dim=config["attention_head_dim"])
    return renamed


@pytest.mark.parametrize(
    "config",
    [
        config_from_ddpm(256, 128, (1, 1, 2, 2, 4, 4), 2, (16,)),
        config_from_ddpm(64, 64, (1, 1.5, 3, 5), 2, (16, 8)),
        config_from_ddpm(32, 64, (1, 2), 3, ()),
        config_from_adm(256, 128, (1, 1, 2, 2, 4, 4), 1, (16,)),
        config_from_adm(256, 256, (1, 1, 2, 2, 4, 4), 2, (32, 16, 8)),
        config_from_adm(64, 32, (1, 2, 3), 3, (), 32, learn_sigma=False),
        config_from_adm(32, 32, (1, 2, 2), 2, (16,), 32, use_scale_shift_norm=False),
        config_from_adm(32, 32, (1, 2, 2), 1, (16, 8), 16, resblock_updown=False),
    ],
    ids=["ddpm 256", "fractions", "no attention", "iddpm", "adm", "eps only", "no scale-shift", "convolutions"],
)
def test_the_shapes_of_a_checkpoint_tell_its_configuration(config):
    room = convert_ddpm if config["freq_shift"] else convert_adm
    original = give_original_keys(config, list(room._pair_modules(config)))
    found = infer_config(original, config["sample_size"], config["attention_head_dim"], config["norm_eps"])
    assert found == config
    assert len(convert_state_dict(original, found)) == len(set(original)) + 4 * sum(
        ".qkv.weight" in key for key in original
    )
