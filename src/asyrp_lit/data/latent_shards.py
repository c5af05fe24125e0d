"""One shard of a latent store as a file: safetensors that carry their own checksum, written atomically."""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from safetensors.torch import save
from torch import Tensor

_BLANK = b"0" * 64
_CHUNK = 1 << 20
#: No header of ours comes near it; a longer one is damage.
_LONGEST_HEADER = 1 << 20


def pack_shard(tensors: dict[str, Tensor], identity: str, number: int) -> bytes:
    """Bytes of a shard: the same tensors, identity and number give the same bytes in every process.

    The checksum stands in the header and is taken over the whole file with 64 zeros in its place, so that shard and
    checksum are one file and cannot get out of step.

    Args:
        tensors: what to write, batch first.
        identity: hex digits of the store that the shard belongs to.
        number: which shard it is.
    """
    # One metadata entry only: safetensors writes several in an order that changes from process to process.
    metadata = {"asyrp_lit": f"store {identity} shard {number} sha256 {_BLANK.decode()}"}
    payload = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    return payload.replace(_BLANK, hashlib.sha256(payload).hexdigest().encode(), 1)


def belongs_to(path: Path, identity: str, number: int) -> bool:
    """Whether a shard is there and says that it is this one of this store; reads its header only."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _read_head(file, identity, number)[1] is not None


def is_intact(path: Path, identity: str, number: int) -> bool:
    """Whether a shard is there, belongs to this store and place, and its checksum fits; reads the whole file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head, checksum = _read_head(file, identity, number)
        if checksum is None:
            return False
        digest = hashlib.sha256(head.replace(checksum, _BLANK, 1))
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest().encode() == checksum


def _read_head(file: BinaryIO, identity: str, number: int) -> tuple[bytes, bytes | None]:
    """What comes before the tensors, and the checksum in it; ``None`` if it is of another store or place."""
    head = file.read(8)
    head += file.read(min(int.from_bytes(head, "little"), _LONGEST_HEADER))
    found = re.search(rb"store %s shard %d sha256 ([0-9a-f]{64})" % (identity.encode(), number), head)
    return head, found[1] if found else None


def has_size(path: Path, data_bytes: int) -> bool:
    """Whether a shard is there in full length: what can be told without reading it.

    Args:
        path: the shard.
        data_bytes: bytes of all its tensors.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    return path.stat().st_size == 8 + header_bytes + data_bytes
