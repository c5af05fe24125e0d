"""Directions in h-space: one protocol, and a file that says what a direction is for."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from asyrp_lit.files import write_atomically
from asyrp_lit.hspace.eps_delta import EpsDelta
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta
from asyrp_lit.hspace.free_delta import GlobalDelta, PerTimestepDelta
from asyrp_lit.hspace.pullback import PullbackDelta
from asyrp_lit.shapes import BottleneckH, TimeEmbedding, Timesteps

FORMAT_VERSION = 1
_METADATA_KEY = "asyrp_lit"
#: Of every base model here.
IMAGE_CHANNELS = 3


#: Label name -> allowed classes, as JSON has it.
Classes = dict[str, list[str]]
#: What a direction moves: the bottleneck h, eps itself (the paper's baseline), or x_t (pullback).
Space = Literal["h", "eps", "x"]


@runtime_checkable
class Direction(Protocol):
    """Anything that proposes a delta_h for a bottleneck; its ``space`` may say eps or x: then for these."""

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """delta_h with the shape of h, for strength 1."""


def get_space(direction: Direction) -> Space:
    """What a direction moves; h where it does not say."""
    space: Space = getattr(direction, "space", "h")
    return space


#: Kind in a direction file -> class. Each is built from plain keyword arguments.
KINDS: dict[str, type[nn.Module]] = {
    "f_t_ddpm": DDPMDelta,
    "f_t_adm": ADMDelta,
    "per_timestep": PerTimestepDelta,
    "global": GlobalDelta,
    "f_eps": EpsDelta,
    "pullback": PullbackDelta,
}
#: Those that train.py can train.
TRAINED_KINDS = ("f_t_ddpm", "f_t_adm", "per_timestep", "global", "f_eps")


@dataclass(frozen=True)
class DirectionInfo:
    """What a direction file says beside its tensors.

    Attributes:
        kind: key of ``KINDS``.
        arguments: keyword arguments of its class.
        attribute, src_text, trg_text: what it edits and the texts it was trained with; empty texts if with none.
        base_model, base_fingerprint: the frozen network it belongs to.
        t_edit, t_boost: the interval it was trained for.
        num_steps: generation steps in training; other numbers rescale delta_h.
        loss: the loss and its weights.
        metrics: validation metrics at the end of training.
        t_start: the noisiest timestep that is edited; 1000 in files that do not say.
        source: where a direction comes from that was not trained here (format, file, sha256, ...; method, images,
            variance explained, ...); else empty.
        labels: label classes with which an oracle calls the edit a success; ``None``: not judged.
        where: condition on the labels of images that it is for; ``None``: any image.
    """

    kind: str
    arguments: dict[str, Any]
    attribute: str
    src_text: str
    trg_text: str
    base_model: str
    base_fingerprint: str
    t_edit: int
    t_boost: int
    num_steps: int
    loss: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    t_start: int = 1000
    source: dict[str, str] = field(default_factory=dict)
    labels: Classes | None = None
    where: Classes | None = None


def make_direction(kind: str, **arguments: Any) -> nn.Module:
    """A new direction of a kind.

    Raises:
        ValueError: the kind does not exist.
    """
    if kind not in KINDS:
        raise ValueError(f"direction kind {kind!r} does not exist; choose from {', '.join(KINDS)}")
    return KINDS[kind](**arguments)


def direction_arguments(
    kind: str, h_channels: int, h_size: int, temb_channels: int, timesteps: Sequence[int]
) -> dict[str, Any]:
    """Constructor arguments of a kind for a base model's h and a time grid, as plain values."""
    if kind in ("f_t_ddpm", "f_t_adm"):
        return {"h_channels": h_channels, "temb_channels": temb_channels, "num_groups": None}
    if kind == "f_eps":
        return {"channels": IMAGE_CHANNELS, "temb_channels": temb_channels, "width": h_channels}
    shape = {"h_channels": h_channels, "h_size": h_size}
    return {"timesteps": list(timesteps), **shape} if kind == "per_timestep" else shape


def save_direction(path: Path, direction: nn.Module, info: DirectionInfo, half: bool = False) -> None:
    """Write a direction file (safetensors with JSON metadata), all of it or nothing; ``half`` keeps float16."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in direction.state_dict().items()}
    if half:
        tensors = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    content = save(tensors, metadata={_METADATA_KEY: json.dumps(asdict(info), sort_keys=True)})
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write the file of a direction, all of it or nothing.

    Raises:
        OSError: the disk takes no more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(path, content)
    except OSError as error:
        raise OSError(f"cannot write the direction {path}: {error.strerror}; free some space and save again") from error


def read_direction_info(path: Path) -> DirectionInfo:
    """What a direction file is for, without its tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a direction file, or of another format version.
    """
    if not path.is_file():
        raise FileNotFoundError(f"direction {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(json.loads((file.metadata() or {})[_METADATA_KEY]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a direction file of asyrp_lit (safetensors with its metadata)") from error
    version = metadata.get("format_version", 1)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has direction format {version}, this asyrp_lit reads {FORMAT_VERSION}; train it again"
        )
    try:
        return DirectionInfo(**metadata)
    except TypeError as error:
        raise ValueError(f"{path} is damaged: its metadata lacks an entry or has an unknown one ({error})") from error


def load_direction(path: Path, base_fingerprint: str, base_model: str) -> tuple[nn.Module, DirectionInfo]:
    """A frozen direction and its metadata, checked against the base model it will be used on.

    Args:
        path: the direction file.
        base_fingerprint: ``HSpaceUNet.fingerprint()`` of the loaded base model.
        base_model: its name, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a direction file, damaged, or made for another base model.
    """
    check_base(read_direction_info(path), str(path), base_fingerprint, base_model)
    return read_direction(path)


def check_base(info: DirectionInfo, name: str, base_fingerprint: str, base_model: str) -> None:
    """Refuse a direction of another base model.

    Raises:
        ValueError: it is; ``name`` is what the message calls the direction.
    """
    if info.base_fingerprint != base_fingerprint:
        raise ValueError(
            f"direction {name} was trained on {info.base_model} ({info.base_fingerprint}) and does not fit "
            f"{base_model} ({base_fingerprint}): h-spaces of different weights have nothing in common. "
            f"Choose the base model {info.base_model}, or train the direction on {base_model}"
        )


def read_direction(path: Path) -> tuple[nn.Module, DirectionInfo]:
    """A frozen direction and its metadata, for whatever base model it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a direction file, or damaged.
    """
    info = read_direction_info(path)
    direction = make_direction(info.kind, **info.arguments)
    with safe_open(path, framework="pt") as file:
        tensors: dict[str, torch.Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    try:
        direction.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} is damaged: its tensors are not those of {info.kind} as its metadata says") from error
    return direction.eval().requires_grad_(False), info
