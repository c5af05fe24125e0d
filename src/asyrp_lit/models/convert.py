"""What the converters to diffusers' UNet2DModel share: rename whole modules, refuse whatever is left over.

A converter is a table from source module to target module that is derived from the target's configuration; the
key styles themselves are in ``convert_ddpm`` and ``convert_adm``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor

StateDict = dict[str, Tensor]
UNetConfig = dict[str, Any]

#: GroupNorm's groups, the same in all families.
NUM_GROUPS = 32
#: How many keys an error names.
SHOWN_KEYS = 5


def make_block_types(
    image_size: int, num_levels: int, attention_resolutions: Collection[int], plain: str
) -> UNetConfig:
    """Block types of a U-Net with attention at some resolutions, finest level first going down.

    Args:
        image_size: edge of the images in pixels.
        num_levels: resolutions in all; level i has an edge of ``image_size`` / 2^i.
        attention_resolutions: edges in pixels with attention.
        plain: the block without attention, with ``{}`` for Down or Up.

    Raises:
        ValueError: an attention resolution is none of the levels' or ``image_size`` cannot be halved that often.
    """
    edges = [image_size >> level for level in range(num_levels)]
    if image_size % 2 ** (num_levels - 1):
        raise ValueError(
            f"image_size must be a multiple of 2^{num_levels - 1} for {num_levels} levels, got {image_size}"
        )
    if unknown := sorted(set(attention_resolutions) - set(edges)):
        raise ValueError(f"attention_resolutions must be among {edges}, got {unknown}")
    with_attention = [edge in attention_resolutions for edge in edges]
    down = ["AttnDownBlock2D" if attention else plain.format("Down") for attention in with_attention]
    up = ["AttnUpBlock2D" if attention else plain.format("Up") for attention in reversed(with_attention)]
    return {"down_block_types": tuple(down), "up_block_types": tuple(up)}


def get_tensor(state_dict: StateDict, key: str) -> Tensor:
    """A tensor from whose shape the configuration follows.

    Raises:
        ValueError: it is not there.
    """
    if key not in state_dict:
        raise ValueError(f"state_dict lacks {key}, which every network of this family has; the file may be cut off")
    return state_dict[key]


def pair_leaves(source: str, target: str, leaves: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(source module, target module) for every layer of one block."""
    return ((f"{source}.{old}", f"{target}.{new}") for old, new in leaves.items())


def rename_modules(state_dict: StateDict, modules: Mapping[str, str], config: UNetConfig) -> StateDict:
    """The state dict of ``UNet2DModel(**config)`` from renamed modules; shares memory with the source.

    1x1 convolutions become matrices where the target has a Linear layer.

    Args:
        state_dict: source keys, ``module.weight`` or ``module.bias``.
        modules: source module to target module; entries without a source key do no harm.
        config: the target's arguments.

    Raises:
        ValueError: a source key has no place, a target key has no source, or a shape differs.
    """
    with torch.device("meta"):
        wanted: StateDict = UNet2DModel(**config).state_dict()
    renamed = {_rename(key, modules): key for key in state_dict}
    _refuse("has keys without a place in this configuration", [renamed[new] for new in renamed if new not in wanted])
    _refuse("lacks what these target keys need", [key for key in wanted if key not in renamed])
    converted = {key: _flatten(state_dict[renamed[key]], value.dim()) for key, value in wanted.items()}
    _refuse(
        "has shapes that differ from this configuration's at",
        [
            f"{renamed[key]} {tuple(converted[key].shape)} instead of {tuple(value.shape)}"
            for key, value in wanted.items()
            if converted[key].shape != value.shape
        ],
    )
    return converted


def _rename(key: str, modules: Mapping[str, str]) -> str:
    module, _, leaf = key.rpartition(".")
    return f"{modules.get(module, 'unknown ' + module)}.{leaf}"


def _flatten(value: Tensor, dims: int) -> Tensor:
    is_linear = dims == 2 and value.dim() > 2 and set(value.shape[2:]) == {1}
    return value.flatten(1) if is_linear else value


def _refuse(problem: str, keys: Sequence[str]) -> None:
    if keys:
        shown = ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
        raise ValueError(
            f"state_dict {problem} ({len(keys)} in all): {shown}; check the file's family and hyper-parameters"
        )
