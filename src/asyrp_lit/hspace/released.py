"""Released f_t files, ``{"0": state dict, "optimizer": ..., "scheduler": ...}``: read into f_t, and written back.

Both layouts have the keys of ``DDPMDelta`` and ``ADMDelta``, so nothing is renamed and every tensor keeps its bytes.
"""

import hashlib
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asyrp_lit.hspace.direction import direction_arguments, make_direction, write_whole
from asyrp_lit.hspace.f_t import MAX_GROUPS, ADMDelta, DDPMDelta

#: Kind -> the key whose shape is (h_channels, temb_channels).
_WIDTHS = {"f_t_ddpm": "temb_proj.weight", "f_t_adm": "emb_layers.1.weight"}
_TOP_KEYS = ("0", "optimizer", "scheduler")
#: What torch.load raises on a file that is damaged or something else.
_UNREADABLE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AssertionError, AttributeError, TypeError)
_SHOWN_KEYS = 4


class ReleasedDirection(NamedTuple):
    """A released f_t.

    Attributes:
        kind: ``f_t_ddpm`` or ``f_t_adm``.
        arguments: of that kind, for ``make_direction``.
        direction: f_t with the file's tensors, on the CPU.
        sha256: of the file.
    """

    kind: str
    arguments: dict[str, Any]
    direction: nn.Module
    sha256: str


def read_released(path: Path) -> ReleasedDirection:
    """f_t from a released file; tensors that were saved on a GPU come to the CPU, and nothing is ever unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, is damaged, or its tensors are not those of one f_t.
    """
    if not path.is_file():
        raise FileNotFoundError(f"released direction {path} does not exist")
    content = path.read_bytes()
    state = _pick_state(_load(content, path), path)
    kind = _find_kind(state, path)
    width = state[_WIDTHS[kind]]
    if width.dim() != 2:
        raise ValueError(f"{path}: {_WIDTHS[kind]} must have 2 dimensions, not shape {tuple(width.shape)}")
    arguments = direction_arguments(kind, len(width), 0, width.shape[1], ())
    _check_tensors(kind, arguments, state, path)
    direction = make_direction(kind, **arguments)
    direction.load_state_dict(state)
    direction.eval().requires_grad_(False)
    return ReleasedDirection(kind, arguments, direction, hashlib.sha256(content).hexdigest())


def _load(content: bytes, path: Path) -> Any:
    try:
        _check_archive(content)
        with warnings.catch_warnings(action="ignore"):  # on pickles that it refuses next
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        code = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f"it is a pickle that would run code ({code[1]})" if code else "it is damaged or something else"
    except _UNREADABLE:
        reason = "it is damaged, cut off or something else"
    raise ValueError(f"{path} is refused as a released f_t file: {reason}; download it again")


def _check_archive(content: bytes) -> None:
    """Compare the checksums of a zip archive, which torch.load passes over.

    Raises:
        ValueError: a part has another one than the archive says.
    """
    stream = io.BytesIO(content)
    if zipfile.is_zipfile(stream):
        try:
            broken = zipfile.ZipFile(stream).testzip()
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise ValueError(str(error)) from error
        if broken:
            raise ValueError(f"{broken} is damaged")


def _pick_state(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or "0" not in content or set(content) - set(_TOP_KEYS):
        found = ", ".join(map(str, list(content)[:_SHOWN_KEYS])) if isinstance(content, Mapping) else type(content)
        raise ValueError(f"{path} is not a released f_t file: that holds {', '.join(_TOP_KEYS)}, this one {found}")
    state = content["0"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a released f_t file: its entry 0 is no state dict of tensors")
    return dict(state)


def _find_kind(state: Mapping[str, Tensor], path: Path) -> str:
    """The layout that has exactly these keys."""
    keys = {kind: set(_make_on_meta(kind, 1, 1).state_dict()) for kind in _WIDTHS}
    nearest = max(keys, key=lambda kind: len(keys[kind] & set(state)))
    if keys[nearest] == set(state):
        return nearest
    missing, unknown = sorted(keys[nearest] - set(state)), sorted(map(str, set(state) - keys[nearest]))
    parts = [
        f"{word} {', '.join(names[:_SHOWN_KEYS])}" for word, names in (("lacks", missing), ("has", unknown)) if names
    ]
    raise ValueError(f"{path} holds no f_t of the layouts {', '.join(_WIDTHS)}: of {nearest} it {' and '.join(parts)}")


def _make_on_meta(kind: str, h_channels: int, temb_channels: int) -> nn.Module:
    with torch.device("meta"):
        return make_direction(kind, **direction_arguments(kind, h_channels, 0, temb_channels, ()))


def _check_tensors(kind: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor], path: Path) -> None:
    wanted = _make_on_meta(kind, arguments["h_channels"], arguments["temb_channels"]).state_dict()
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            shapes = f"{tuple(wanted[key].shape)} as {_WIDTHS[kind]} tells, not {tuple(value.shape)}"
            raise ValueError(f"{path}: {key} must have the shape {shapes}")
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise ValueError(f"{path}: {key} must hold finite float32 numbers ({value.dtype}); download it again")


def check_widths(arguments: Mapping[str, Any], base_model: str, h_channels: int, temb_channels: int) -> None:
    """See that an f_t fits a base model.

    Args:
        arguments: of the f_t.
        base_model: its name, for the message.
        h_channels, temb_channels: of the base model.

    Raises:
        ValueError: it was made for another number of channels.
    """
    found, wanted = (arguments["h_channels"], arguments["temb_channels"]), (h_channels, temb_channels)
    if found != wanted:
        raise ValueError(
            f"this f_t is for {found[0]} channels of h and a time embedding of {found[1]}; base model {base_model} has "
            f"{wanted[0]} and {wanted[1]}: choose the base model that it was trained on with model=NAME"
        )


def write_released(path: Path, direction: nn.Module) -> None:
    """Write f_t as a released file, all of it or nothing: tensors byte for byte, on the CPU.

    The released code reads entry ``0`` for editing, and all three for going on with training. A direction file keeps
    no optimiser, so the two others are those of the released files: SGD (rate 0.5, no state) before StepLR steps.

    Raises:
        ValueError: there is no released layout for this direction.
        OSError: the disk takes no more.
    """
    if not isinstance(direction, DDPMDelta | ADMDelta):
        raise ValueError(f"only f_t has a released layout ({', '.join(_WIDTHS)}), not {type(direction).__name__}")
    groups = next(module.num_groups for module in direction.modules() if isinstance(module, nn.GroupNorm))
    if groups != MAX_GROUPS or not direction.use_time:
        raise ValueError(
            f"the released code knows f_t with a time input and {MAX_GROUPS} groups only, this one has {groups} groups"
            f"{'' if direction.use_time else ' and no time input'}"
        )
    content = {"0": direction.cpu().state_dict(), **_make_training_state(len(list(direction.parameters())))}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def _make_training_state(num_parameters: int) -> dict[str, Any]:
    """The optimiser (SGD) and the scheduler (StepLR) as they stand in a released file."""
    indices = list(range(num_parameters))
    group = {"lr": 0.5, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "initial_lr": 0.5}
    schedule = {"step_size": 20, "gamma": 0.9, "base_lrs": [0.5], "last_epoch": 0, "_step_count": 1}
    return {
        "optimizer": {
            "state": {index: {"momentum_buffer": None} for index in indices},
            "param_groups": [{**group, "params": indices}],
        },
        "scheduler": {**schedule, "verbose": False, "_get_lr_called_within_step": False, "_last_lr": [0.5]},
    }
