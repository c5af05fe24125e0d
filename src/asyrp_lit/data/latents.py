"""The latent store: x_0, x_T, labels and P_t of many images as safetensors shards beside a manifest.

<root>/ddpmpp_avatars-avatars-train-40steps-1f0c.../
    manifest.json                 what is in it, for whom it was made
    shard-00000.safetensors       images 0 .. shard_size - 1, and so on
"""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from jaxtyping import Float, UInt8
from safetensors import safe_open
from torch import Tensor

from asyrp_lit.data.latent_manifest import (
    Manifest,
    Specs,
    StoreKey,
    count_item_bytes,
    dump_manifest,
    make_manifest,
    read_key,
    read_manifest,
    settle_manifest,
)
from asyrp_lit.data.latent_shards import has_size, is_intact, pack_shard
from asyrp_lit.files import write_atomically

__all__ = ["LatentStore", "StoreKey", "from_uint8", "to_uint8"]

#: Shards that a store keeps open for reading.
OPEN_SHARDS = 16
#: Stores up to this size are verified whole before they are used, larger ones shard by shard on first use.
VERIFIED_BYTES = 2**31


def to_uint8(images: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Images in [-1, 1] as 8-bit ones, rounded and clipped; undone exactly by ``from_uint8``."""
    return images.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """8-bit images as float32 in [-1, 1]."""
    return pixels.float().div(127.5).sub(1)


class LatentStore:
    """A folder of latents; made by ``create``, read by ``open`` and by index. Can be pickled (it opens again).

    Several processes may read it, and write different shards of it, at the same time.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.key = read_key(manifest)
        self.item_keys: list[str] = manifest["item_keys"]
        self.shard_size: int = manifest["shard_size"]
        self.specs: Specs = manifest["tensors"]
        #: Shards carry it, so that those of another store are not taken for this one's.
        self.identity = hashlib.sha256(dump_manifest(manifest)).hexdigest()[:12]
        self._verified: set[int] = set()
        self._reader = lru_cache(OPEN_SHARDS)(self._open_shard)

    @classmethod
    def create(
        cls, root: Path | str, key: StoreKey, item_keys: Sequence[str], shard_size: int, num_labels: int = 0
    ) -> "LatentStore":
        """Make the store of a key under ``root``, or open it if it is there; a half-written manifest is rewritten.

        Args:
            root: folder of stores.
            key: what the latents depend on.
            item_keys: one name per image, unique.
            shard_size: images per shard; the last may have fewer.
            num_labels: labels per image.

        Raises:
            ValueError: nothing to store, or the manifest on disk is of another format version or contradicts.
        """
        manifest = make_manifest(key, item_keys, shard_size, num_labels)
        folder = Path(root) / key.folder_name()
        settle_manifest(folder, manifest)
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path | str) -> "LatentStore":
        """Open a store that is there.

        Raises:
            FileNotFoundError: no manifest.
            ValueError: the manifest is half-written or of another format version.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise FileNotFoundError(f"no latent store in {folder} (no manifest.json): run invert.py to make one")
        manifest = read_manifest(folder)
        if manifest is None:
            raise ValueError(f"{folder / 'manifest.json'} is half-written: rerun the command that made it")
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return LatentStore.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.item_keys)

    @staticmethod
    def disk_bytes(key: StoreKey, num_images: int, num_labels: int = 0) -> int:
        """Bytes that a store would take on disk, before it is made; without headers and the manifest (under 1 %)."""
        return num_images * count_item_bytes(key.tensor_specs(num_labels))

    @property
    def num_shards(self) -> int:
        """How many shards the store has when complete."""
        return ceil(len(self) / self.shard_size)

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return str(self.folder)

    def shard_path(self, number: int) -> Path:
        """Where a shard lies, or would."""
        return self.folder / f"shard-{number:05d}.safetensors"

    def shard_indices(self, number: int) -> range:
        """Indices of the images of a shard."""
        if not 0 <= number < self.num_shards:
            raise IndexError(f"shard must be 0 to {self.num_shards - 1}, got {number}")
        return range(number * self.shard_size, min((number + 1) * self.shard_size, len(self)))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return count_item_bytes(self.specs) * len(self)

    @property
    def verify(self) -> bool:
        """Whether the store is small enough to read all of it before it is used; checksums of larger ones wait."""
        return self.num_bytes <= VERIFIED_BYTES

    def missing_shards(self, among: Iterable[int] | None = None, verify: bool = True) -> list[int]:
        """Shards that are not there, or damaged.

        Args:
            among: the shards to look at; ``None`` for all.
            verify: whether to read them and see that checksums fit, or to look at their lengths only.
        """
        numbers = range(self.num_shards) if among is None else among
        if verify:
            return [k for k in numbers if not is_intact(self.shard_path(k), self.identity, k)]
        item_bytes = count_item_bytes(self.specs)
        return [k for k in numbers if not has_size(self.shard_path(k), item_bytes * len(self.shard_indices(k)))]

    def is_complete(self) -> bool:
        """Whether every shard is there in full length; a quick look, the checksums are verified on first use."""
        return not self.missing_shards(verify=False)

    def lock_shard(self, number: int) -> FileLock:
        """A lock for whoever computes a shard; gone with its process. Not acquired yet."""
        folder = self.folder / "locks"
        folder.mkdir(exist_ok=True)
        return FileLock(folder / f"{number:05d}.lock")

    def write_shard(self, number: int, tensors: dict[str, Tensor]) -> None:
        """Write a shard, whole or not at all.

        Args:
            number: which.
            tensors: every tensor of the items, batch first, one row per image of the shard.

        Raises:
            ValueError: a tensor is missing, unknown, or of the wrong shape or dtype.
            OSError: the disk is full or not writable; nothing half-written is left.
        """
        self._check_tensors(number, tensors)
        payload = pack_shard(tensors, self.identity, number)
        try:
            write_atomically(self.shard_path(number), payload)
        except OSError as error:
            needed, whole = len(payload) / 2**20, self.num_bytes / 2**20
            raise OSError(
                error.errno,
                f"could not write shard {number} to {self.folder} ({error.strerror or error}): it needs {needed:.1f} "
                f"MiB, the whole store {whole:.1f} MiB. Make room or choose another folder for the latents, then "
                "rerun: finished shards are kept",
            ) from error

    def _check_tensors(self, number: int, tensors: dict[str, Tensor]) -> None:
        if set(tensors) != set(self.specs):
            raise ValueError(f"shard {number} must have the tensors {sorted(self.specs)}, got {sorted(tensors)}")
        for name, spec in self.specs.items():
            shape = (len(self.shard_indices(number)), *spec["shape"])
            if tuple(tensors[name].shape) != shape or tensors[name].dtype != getattr(torch, spec["dtype"]):
                raise ValueError(
                    f"{name} of shard {number} must be {spec['dtype']} of shape {shape}, "
                    f"got {tensors[name].dtype} of shape {tuple(tensors[name].shape)}"
                )

    def _open_shard(self, number: int) -> dict[str, Tensor]:
        path = self.shard_path(number)
        if number not in self._verified:
            if not path.is_file():
                raise FileNotFoundError(f"{path} is missing: rerun the command that made it to compute it")
            if not is_intact(path, self.identity, number):
                with suppress(OSError):
                    path.replace(path.with_suffix(".damaged"))  # a rerun that looks at lengths only misses it too
                raise ValueError(
                    f"{path} is truncated or corrupt (wrong checksum): rerun the command that made it, "
                    "it computes this shard again"
                )
            self._verified.add(number)
        return self._map_shard(path)

    def _map_shard(self, path: Path) -> dict[str, Tensor]:
        with safe_open(path, framework="pt") as shard:
            return {name: shard.get_tensor(name) for name in self.specs}  # views of the mapped file, no copies

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One image's tensors, read from disk: ``x_0``, ``x_T``, ``labels`` and ``pred_x0`` if kept.

        Raises:
            IndexError: ``index`` is not 0 to ``len - 1``.
            FileNotFoundError, ValueError: its shard is missing, or corrupt.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be 0 to {len(self) - 1}, got {index}")
        number, row = divmod(index, self.shard_size)
        shard = self._reader(number)
        return {name: tensor[row].clone() for name, tensor in shard.items()}
