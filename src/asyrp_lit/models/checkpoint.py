"""Checkpoint files of strangers: read without running code, unwrapped to one network, told apart by their keys."""

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from asyrp_lit.models.convert import SHOWN_KEYS, StateDict

log = logging.getLogger(__name__)

KeyStyle = Literal["ddpm", "adm"]

#: What the readers raise on a file that is damaged or something else.
_UNREADABLE = (
    *(pickle.UnpicklingError, SafetensorError, EOFError, OSError, RuntimeError),
    *(ValueError, LookupError, AssertionError, AttributeError, TypeError),
)
#: Bytes of a file that tell a text from an archive.
_HEAD = 64
#: A key that every network of a style has, whatever its size.
ANCHORS: dict[KeyStyle, str] = {"ddpm": "temb.dense.0.weight", "adm": "time_embed.0.weight"}
#: A key of every UNet2DModel.
_DIFFUSERS = "time_embedding.linear_1.weight"
#: Keys under which files wrap a state dict, the averaged weights before the trained ones.
WRAPPERS = ("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "state_dict", "model", "model_state_dict")
#: What the files of other kinds of network have in some key, and what they are.
STRANGERS = {
    r"lora": "a LoRA, which has no network of its own",
    r"cond_stage_model|first_stage_model|transformer_blocks|attn2|encoder_hid": "a text-to-image network such as "
    "Stable Diffusion, which works on latents and texts",
    r"label_emb": "a class-conditional network; the unconditional one of the same release fits",
}


def read_checkpoint(path: Path, name: str) -> StateDict:
    """The state dict of the one U-Net in a ``.pt``, ``.ckpt`` or ``.safetensors`` file, its keys without prefix.

    Wrappers (``ema``, ``state_dict``, ``model``, ...) are opened, averaged weights preferred, and prefixes such as
    ``module.`` cut off.

    Args:
        path: the file; read with ``weights_only``.
        name: of the base model, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, holds something else, or more than one network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"base model {name}: the checkpoint {path} does not exist")
    try:
        content = _load(path)
    except _UNREADABLE as error:
        raise ValueError(
            f"base model {name}: {path} is not a readable checkpoint of tensors: {_explain(error, path)}"
        ) from error
    state_dict = _unwrap(content, path, name)
    _refuse_strangers(state_dict, path, name)
    return _cut_prefix(state_dict, path, name)


def identify_style(state_dict: StateDict) -> KeyStyle:
    """The key style of a state dict that ``read_checkpoint`` returned."""
    return next(style for style, anchor in ANCHORS.items() if anchor in state_dict)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    # Only zip archives can be mapped; files from before torch 1.6 are read whole.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _explain(error: Exception, path: Path) -> str:
    """Why a file cannot be read and what to do; torch's own words advise to run the code in it."""
    again = "it may be damaged or cut off while it was downloaded: fetch it again"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "it is empty: fetch it again"
    if not any(byte < ord(" ") and chr(byte) not in "\t\r\n" for byte in head):
        begin = " ".join(head.decode(errors="replace").split())
        return f"it is a text that begins with {begin!r}, such as a page that was saved in its place: fetch it again"
    if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return f"it holds {code[1]} beside tensors, and code is never loaded: save the U-Net's state dict alone"
    if isinstance(error, pickle.UnpicklingError):
        return again
    return f"{' '.join(str(error).split('. ')[0].split())[:120]}; {again}"


def _unwrap(content: Any, path: Path, name: str) -> StateDict:
    """The innermost mapping that holds tensors."""
    if isinstance(content, list | tuple):  # DDIM's training script: model, optimiser, epoch, step, averaged model
        content = next((part for part in reversed(content) if _has_tensors(part)), content[0] if content else None)
    if not isinstance(content, Mapping):
        raise ValueError(f"base model {name}: {path} holds a {type(content).__name__} and no state dict")
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            log.info("base model %s: taking the weights under %r of %s", name, wrapper, path.name)
            return _unwrap(content[wrapper], path, name)
    if others := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        known = ", ".join(WRAPPERS)
        raise ValueError(
            f"base model {name}: {path} is no state dict: {_show(others)} hold no tensors; a state dict may also stand "
            f"under one of the keys {known}"
        )
    return dict(content)


def _has_tensors(part: Any) -> bool:
    return isinstance(part, Mapping) and any(isinstance(value, Tensor) for value in part.values())


def _refuse_strangers(state_dict: StateDict, path: Path, name: str) -> None:
    for pattern, what in STRANGERS.items():
        if found := [key for key in state_dict if re.search(pattern, key)]:
            raise ValueError(f"base model {name}: {path} is {what} (keys such as {_show(found)})")


def _cut_prefix(state_dict: StateDict, path: Path, name: str) -> StateDict:
    """The network under its longest averaged prefix, else under the only one."""
    prefixes = [
        key.removesuffix(anchor)
        for key in state_dict
        for anchor in ANCHORS.values()
        if key == anchor or key.endswith(f".{anchor}")
    ]
    if not prefixes and _DIFFUSERS in state_dict:
        raise ValueError(
            f"base model {name}: {path} has diffusers' keys, whose settings are in the config.json beside it: name the "
            f"folder, model.weights={path.parent}"
        )
    if not prefixes:
        raise ValueError(
            f"base model {name}: {path} is neither a DDPM++ nor a guided-diffusion U-Net: it has none of the keys "
            f"{', '.join(ANCHORS.values())}, but {_show(list(state_dict))}"
        )
    chosen = max(prefixes, key=lambda prefix: ("ema" in prefix.lower(), len(prefix)))
    others = tuple(prefix for prefix in prefixes if prefix != chosen)
    if chosen:
        log.info("base model %s: taking the weights with the prefix %r of %s", name, chosen, path.name)
    if unused := [key for key in state_dict if not key.startswith((chosen, *others))]:
        raise ValueError(
            f"base model {name}: {path} has keys beside those of the U-Net with the prefix {chosen!r}: "
            f"{_show(unused)}; save the U-Net's state dict alone"
        )
    return {key.removeprefix(chosen): value for key, value in state_dict.items() if key.startswith(chosen)}


def _show(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
