"""What a latent store says about itself: the key that its content depends on, and its manifest."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

import torch

from asyrp_lit.data.random_latents import DRAWN
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.files import write_atomically

FORMAT_VERSION = 1
PRECISIONS = ("32-true", "bf16")
#: Characters of a source's name in that of its store's folder; file systems take 255 in all.
_LONGEST_NAME = 100
_FIELDS = {"format_version", "key", "item_keys", "num_images", "shard_size", "tensors"}
_log = logging.getLogger(__name__)

Manifest = dict[str, Any]
Specs = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class StoreKey:
    """Everything that latents depend on: two stores with one key hold the same latents.

    Attributes:
        base_model, base_fingerprint: the frozen network's name and a digest of its weights.
        source, source_fingerprint: the image source's name and a digest of its images.
        image_size: edge in pixels.
        num_steps, t_0: the time grid, as for ``make_time_grid``.
        precision: of the network's passes, ``32-true`` or ``bf16``; what is stored is float32 in both.
        pred_x0_steps: grid timesteps at which P_t of the unedited trajectory is kept, put in descending order; empty
            for none.

    Raises:
        ValueError: a value is out of range.
    """

    base_model: str
    base_fingerprint: str
    source: str
    source_fingerprint: str
    image_size: int
    num_steps: int
    t_0: int
    precision: str = "32-true"
    pred_x0_steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "pred_x0_steps", tuple(sorted(set(self.pred_x0_steps), reverse=True)))
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if strangers := set(self.pred_x0_steps) - set(self.grid):
            raise ValueError(f"pred_x0_steps must lie on the time grid {self.grid}, got {sorted(strangers)}")

    @property
    def is_drawn(self) -> bool:
        """Whether x_T was drawn at random and x_0 made of it, rather than the other way round."""
        return self.source_fingerprint.startswith(DRAWN)

    @property
    def grid(self) -> tuple[int, ...]:
        """The time grid, ascending."""
        return make_time_grid(self.num_steps, self.t_0)

    def digest(self) -> str:
        """Twelve hex digits over every field."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def folder_name(self) -> str:
        """What a store of this key is called on disk: readable, and different for different keys."""
        base_model, source = (re.sub(r"[^A-Za-z0-9._-]+", "_", name) for name in (self.base_model, self.source))
        return f"{base_model}-{source[:_LONGEST_NAME]}-{self.num_steps}steps-{self.digest()}"

    def tensor_specs(self, num_labels: int) -> Specs:
        """Shape and dtype of each tensor of an item."""
        image = [3, self.image_size, self.image_size]
        specs: Specs = {
            "x_0": {"dtype": "uint8", "shape": image},
            "x_T": {"dtype": "float32", "shape": image},
            "labels": {"dtype": "int64", "shape": [num_labels]},
        }
        if self.pred_x0_steps:
            specs["pred_x0"] = {"dtype": "float16", "shape": [len(self.pred_x0_steps), *image]}
        return specs


def count_item_bytes(specs: Specs) -> int:
    """Bytes of one item's tensors."""
    return sum(prod(spec["shape"]) * getattr(torch, spec["dtype"]).itemsize for spec in specs.values())


def make_manifest(key: StoreKey, item_keys: Sequence[str], shard_size: int, num_labels: int) -> Manifest:
    """The manifest of a store; arguments and errors as for ``LatentStore.create``."""
    if shard_size < 1 or not item_keys or len(set(item_keys)) != len(item_keys):
        raise ValueError(
            f"a store needs shard_size >= 1 and at least one image, each with its own key; got shard_size "
            f"{shard_size} and {len(item_keys)} images with {len(set(item_keys))} different keys"
        )
    return {
        "format_version": FORMAT_VERSION,
        "key": asdict(key) | {"pred_x0_steps": list(key.pred_x0_steps)},
        "item_keys": list(item_keys),
        "num_images": len(item_keys),
        "shard_size": shard_size,
        "tensors": key.tensor_specs(num_labels),
    }


def read_key(manifest: Manifest) -> StoreKey:
    """The key that a manifest names."""
    return StoreKey(**manifest["key"] | {"pred_x0_steps": tuple(manifest["key"]["pred_x0_steps"])})


def dump_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON, the same bytes for the same content."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a store; ``None`` if it is missing or half-written.

    Raises:
        ValueError: it is of another format version.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        manifest = None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this asyrp_lit reads version {FORMAT_VERSION}: use the asyrp_lit "
            "that made it, or delete the folder to have it computed again"
        )
    if (
        version is None
        or set(manifest) != _FIELDS
        or not isinstance(manifest["key"], dict)
        or set(manifest["key"]) != {field.name for field in fields(StoreKey)}
    ):
        _log.warning("%s is half-written", path)
        return None
    return dict(manifest)


def settle_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest where none, or half of one, is.

    Raises:
        ValueError: the one on disk is of another format version or contradicts.
    """
    found = read_manifest(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "manifest.json", dump_manifest(manifest))
    elif found != manifest:
        differing = [_describe(name, found[name], manifest[name]) for name in sorted(_FIELDS)]
        raise ValueError(
            f"the latent store {folder} was made for something else ({'; '.join(filter(None, differing))}): ask for "
            "what it holds, choose another folder for the latents, or delete it to have it computed again"
        )


def _describe(name: str, found: Any, wanted: Any) -> str:
    """How a field of two manifests differs, empty if it does not."""
    if found == wanted:
        return ""
    if isinstance(found, list) and isinstance(wanted, list):
        if len(found) != len(wanted):
            return f"{name}: {len(found)} there, {len(wanted)} asked for"
        there, asked = next(pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1])
        return f"{name}: first difference {there!r} there, {asked!r} asked for"
    return f"{name}: {found} there, {wanted} asked for"
