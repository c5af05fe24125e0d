"""DDPM++ networks (SDEdit's CelebA-HQ, LSUN-bedroom, LSUN-church) to diffusers' UNet2DModel."""

from collections.abc import Collection, Iterator, Sequence

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
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def config_from_ddpm(
    image_size: int,
    ch: int,
    ch_mult: Sequence[int | float],
    num_res_blocks: int,
    attn_resolutions: Collection[int],
    in_channels: int = 3,
    out_ch: int = 3,
    norm_eps: float = 1e-6,
) -> UNetConfig:
    """Arguments of UNet2DModel from the original constructor's (same names).

    Args:
        image_size: edge of the images in pixels.
        ch: channels of the finest level, before ``ch_mult``.
        ch_mult: factor on ``ch`` for every level, finest first; may be a fraction.
        num_res_blocks: ResNet blocks a level on the way down.
        attn_resolutions: edges in pixels with attention; the middle always has it.
        in_channels: of the images.
        out_ch: of eps.
        norm_eps: of all GroupNorms; the released networks' unless you know better.

    Raises:
        ValueError: a resolution is none of the levels'.
    """
    return {
        "sample_size": image_size,
        "in_channels": in_channels,
        "out_channels": out_ch,
        "block_out_channels": tuple(int(ch * mult) for mult in ch_mult),
        "layers_per_block": num_res_blocks,
        **make_block_types(image_size, len(ch_mult), attn_resolutions, "{}Block2D"),
        "attention_head_dim": None,  # one head
        "downsample_padding": 0,  # padded at the right and below only
        "norm_num_groups": NUM_GROUPS,
        "norm_eps": norm_eps,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
    }


def infer_ddpm_config(state_dict: StateDict, image_size: int, norm_eps: float) -> UNetConfig:
    """Arguments of UNet2DModel from the shapes of a DDPM++ state dict: widths, blocks, attention levels, channels.

    Args:
        state_dict: original keys.
        image_size: edge of the images in pixels, which no shape tells.
        norm_eps: of all GroupNorms, which no shape tells.

    Raises:
        ValueError: a key that every DDPM++ has is missing, or ``image_size`` cannot be halved often enough.
    """
    levels = 1 + max(int(key.split(".")[1]) for key in ["down.0", *state_dict] if key.startswith("down."))
    widths = [len(get_tensor(state_dict, f"down.{level}.block.0.conv1.weight")) for level in range(levels)]
    conv_in = get_tensor(state_dict, "conv_in.weight")
    return config_from_ddpm(
        image_size,
        ch=len(conv_in),
        ch_mult=[width / len(conv_in) for width in widths],
        num_res_blocks=sum(f"down.0.block.{j}.conv1.weight" in state_dict for j in range(len(state_dict))),
        attn_resolutions=[
            image_size >> level for level in range(levels) if f"down.{level}.attn.0.q.weight" in state_dict
        ],
        in_channels=conv_in.shape[1],
        out_ch=len(get_tensor(state_dict, "conv_out.weight")),
        norm_eps=norm_eps,
    )


def convert_ddpm_state_dict(state_dict: StateDict, config: UNetConfig) -> StateDict:
    """The UNet2DModel state dict of a DDPM++ one; ``config`` as ``config_from_ddpm`` makes it.

    Raises:
        ValueError: a key is left over or missing, or a shape differs.
    """
    return rename_modules(state_dict, dict(_pair_modules(config)), config)


def _pair_modules(config: UNetConfig) -> Iterator[tuple[str, str]]:
    """(source module, target module) for the whole network."""
    num_levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    yield from {
        "temb.dense.0": "time_embedding.linear_1",
        "temb.dense.1": "time_embedding.linear_2",
        "conv_in": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }.items()
    yield from pair_leaves("mid.block_1", "mid_block.resnets.0", RESNET)
    yield from pair_leaves("mid.attn_1", "mid_block.attentions.0", ATTENTION)
    yield from pair_leaves("mid.block_2", "mid_block.resnets.1", RESNET)
    for level in range(num_levels):
        # Both count levels from the finest, but diffusers counts up_blocks in order of use.
        down, up = f"down_blocks.{level}", f"up_blocks.{num_levels - 1 - level}"
        yield f"down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"
        for source, target, count in ((f"down.{level}", down, layers), (f"up.{level}", up, layers + 1)):
            for j in range(count):
                yield from pair_leaves(f"{source}.block.{j}", f"{target}.resnets.{j}", RESNET)
                yield from pair_leaves(f"{source}.attn.{j}", f"{target}.attentions.{j}", ATTENTION)
