"""Guided-diffusion networks (ADM, iDDPM, P2-weighting) to diffusers' UNet2DModel."""

import re
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from asyrp_lit.models.convert import (
    NUM_GROUPS,
    StateDict,
    UNetConfig,
    get_tensor,
    make_block_types,
    pair_leaves,
    rename_modules,
)

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def config_from_adm(
    image_size: int,
    num_channels: int,
    channel_mult: Sequence[int | float],
    num_res_blocks: int,
    attention_resolutions: Collection[int],
    num_head_channels: int = 64,
    learn_sigma: bool = True,
    use_scale_shift_norm: bool = True,
    resblock_updown: bool = True,
    norm_eps: float = 1e-5,
) -> UNetConfig:
    """Arguments of UNet2DModel from the original ``create_model``'s (same names).

    Args:
        image_size: edge of the images in pixels.
        num_channels: channels of the finest level, before ``channel_mult``.
        channel_mult: factor on ``num_channels`` for every level, finest first; may be a fraction.
        num_res_blocks: ResNet blocks a level on the way down.
        attention_resolutions: edges in pixels with attention; the middle always has it.
        num_head_channels: channels of one attention head.
        learn_sigma: whether there are three more output channels.
        use_scale_shift_norm: whether the time embedding scales and shifts; else it is added.
        resblock_updown: whether ResNet blocks change the resolution; else convolutions do.
        norm_eps: of all GroupNorms; the released networks' unless you know better.

    Raises:
        ValueError: a resolution is none of the levels'.
    """
    resample = "resnet" if resblock_updown else "conv"
    return {
        "sample_size": image_size,
        "in_channels": 3,
        "out_channels": 6 if learn_sigma else 3,
        "block_out_channels": tuple(int(num_channels * mult) for mult in channel_mult),
        "layers_per_block": num_res_blocks,
        **make_block_types(
            image_size,
            len(channel_mult),
            attention_resolutions,
            "Resnet{}sampleBlock2D" if resblock_updown else "{}Block2D",
        ),
        "downsample_type": resample,
        "upsample_type": resample,
        "resnet_time_scale_shift": "scale_shift" if use_scale_shift_norm else "default",
        "attention_head_dim": num_head_channels,
        "norm_num_groups": NUM_GROUPS,
        "attn_norm_num_groups": NUM_GROUPS,  # else the middle attention has no norm
        "norm_eps": norm_eps,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
    }


def infer_adm_config(state_dict: StateDict, image_size: int, num_head_channels: int, norm_eps: float) -> UNetConfig:
    """Arguments of UNet2DModel from the shapes of a guided-diffusion state dict.

    Widths, blocks, attention levels, learned sigma, scale-shift and the kind of resampling follow from it.

    Args:
        state_dict: original keys.
        image_size: edge of the images in pixels, which no shape tells.
        num_head_channels: channels of one attention head, which no shape tells.
        norm_eps: of all GroupNorms, which no shape tells.

    Raises:
        ValueError: a key that every such network has is missing, or ``image_size`` cannot be halved often enough.
    """
    ups = [key for key in state_dict if re.fullmatch(r"output_blocks\.\d+\.[12]\.(conv|in_layers\.0)\.weight", key)]
    levels, blocks = 1 + len(ups), sum(f"output_blocks.{n}.0.in_layers.0.weight" in state_dict for n in range(1000))
    layers = blocks // levels - 1
    first = [1 + level * (layers + 1) for level in range(levels)]
    convs = [get_tensor(state_dict, f"input_blocks.{n}.0.out_layers.3.weight") for n in first]
    num_channels = len(get_tensor(state_dict, "input_blocks.0.0.weight"))
    return config_from_adm(
        image_size,
        num_channels,
        channel_mult=[len(conv) / num_channels for conv in convs],
        num_res_blocks=layers,
        attention_resolutions=[
            image_size >> level for level, n in enumerate(first) if f"input_blocks.{n}.1.qkv.weight" in state_dict
        ],
        num_head_channels=num_head_channels,
        learn_sigma=len(get_tensor(state_dict, "out.2.weight")) == 6,
        use_scale_shift_norm=len(get_tensor(state_dict, "input_blocks.1.0.emb_layers.1.weight")) == 2 * len(convs[0]),
        resblock_updown=not any(key.endswith(".op.weight") for key in state_dict),
        norm_eps=norm_eps,
    )


def convert_adm_state_dict(state_dict: StateDict, config: UNetConfig) -> StateDict:
    """The UNet2DModel state dict of a guided-diffusion one; ``config`` as ``config_from_adm`` makes it.

    Raises:
        ValueError: a key is left over or missing, or a shape differs.
    """
    split: StateDict = {}
    for key, value in state_dict.items():
        module, _, leaf = key.rpartition(".")
        if module.endswith(".qkv"):
            parts = zip("qkv", split_legacy_qkv(value, config["attention_head_dim"]), strict=True)
            split |= {f"{module.removesuffix('qkv')}{name}.{leaf}": part for name, part in parts}
        else:
            split[key] = value
    return rename_modules(split, dict(_pair_modules(config)), config)


def split_legacy_qkv(qkv: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, (C, ...) each, of rows in the legacy order (heads, 3, head_dim).

    Args:
        qkv: weight (3 C, C, 1) or bias (3 C,).
        head_dim: channels of one head, a divisor of C.

    Raises:
        ValueError: the rows are no multiple of 3 ``head_dim``.
    """
    if len(qkv) % (3 * head_dim):
        raise ValueError(f"num_head_channels must divide {len(qkv) / 3:g} channels of an attention, got {head_dim}")
    query, key, value = qkv.reshape(-1, 3, head_dim, *qkv.shape[1:]).unbind(1)
    return query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)


def merge_legacy_qkv(query: Tensor, key: Tensor, value: Tensor, head_dim: int) -> Tensor:
    """Rows in the legacy order (heads, 3, head_dim), the inverse of ``split_legacy_qkv``."""
    parts = [part.reshape(-1, head_dim, *part.shape[1:]) for part in (query, key, value)]
    return torch.stack(parts, dim=1).flatten(0, 2)


def _pair_modules(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(source module, target module) for the whole network."""
    yield from {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
    }.items()
    yield from pair_leaves("middle_block.0", "mid_block.resnets.0", RESNET)
    yield from pair_leaves("middle_block.1", "mid_block.attentions.0", ATTENTION)
    yield from pair_leaves("middle_block.2", "mid_block.resnets.1", RESNET)
    yield from _pair_down(config)
    yield from _pair_up(config)


def _pair_down(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """input_blocks after the first: a level's ResNet blocks with their attentions, then one that halves the edge."""
    layers = config["layers_per_block"]
    for level, block_type in enumerate(config["down_block_types"]):
        first, block = 1 + level * (layers + 1), f"down_blocks.{level}"
        for j in range(layers):
            yield from pair_leaves(f"input_blocks.{first + j}.0", f"{block}.resnets.{j}", RESNET)
            if "Attn" in block_type:
                yield from pair_leaves(f"input_blocks.{first + j}.1", f"{block}.attentions.{j}", ATTENTION)
        yield from pair_leaves(f"input_blocks.{first + layers}.0", f"{block}.downsamplers.0", RESNET | {"op": "conv"})


def _pair_up(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """output_blocks: ResNet blocks with their attentions; a level's last part doubles the edge."""
    count = config["layers_per_block"] + 1
    for level, block_type in enumerate(config["up_block_types"]):
        first, block = level * count, f"up_blocks.{level}"
        for j in range(count):
            yield from pair_leaves(f"output_blocks.{first + j}.0", f"{block}.resnets.{j}", RESNET)
            if "Attn" in block_type:
                yield from pair_leaves(f"output_blocks.{first + j}.1", f"{block}.attentions.{j}", ATTENTION)
        upsampler = 2 if "Attn" in block_type else 1
        resampling = RESNET | {"conv": "conv"}
        yield from pair_leaves(f"output_blocks.{first + count - 1}.{upsampler}", f"{block}.upsamplers.0", resampling)
