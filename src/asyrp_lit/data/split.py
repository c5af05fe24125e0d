"""Splits of one set of images into train and val by a seed."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple


class SeededPart(NamedTuple):
    """Which part of a set of images to take.

    Attributes:
        split: ``train`` or ``val``.
        val_images: how many images val has: a share, above 0 and below 1, or a count.
        seed: decides which they are.
    """

    split: str
    val_images: int | float
    seed: int


def count_val(num_images: int, val_images: int | float) -> int:
    """How many of ``num_images`` are val's; at least 1, and where there are 2 or more at least 1 is left for train.

    Raises:
        ValueError: ``val_images`` is neither a share nor a count, or leaves nothing to train on.
    """
    is_count = type(val_images) is int and val_images >= 1
    if not is_count and not (isinstance(val_images, float) and 0 < val_images < 1):
        raise ValueError(f"val_images must be a count, 1 or more, or a share, above 0 and below 1; got {val_images!r}")
    count = int(val_images) if is_count else min(max(1, round(val_images * num_images)), max(1, num_images - 1))
    if count >= num_images > 1:
        raise ValueError(
            f"val_images={val_images} leaves none of the {num_images} images to train on: lower it, or give the val "
            "images a folder of their own"
        )
    return count


def take_part(keys: Sequence[str], part: SeededPart) -> list[str]:
    """The keys of a part, in their order; train and val have none in common unless there is one key only.

    Val has the keys whose digest with the seed is lowest: where ``val_images`` is a count, an image that comes or goes
    later moves at most one other, and the order of ``keys`` decides nothing.

    Raises:
        ValueError: the part's split or ``val_images`` is not possible.
    """
    if part.split not in ("train", "val"):
        raise ValueError(f"split must be train or val, got {part.split!r}")
    count = count_val(len(keys), part.val_images)
    if len(keys) == 1:
        return list(keys)
    val = set(sorted(keys, key=lambda key: _rank(key, part.seed))[:count])
    return [key for key in keys if (key in val) == (part.split == "val")]


def _rank(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{key}".encode(errors="surrogateescape")).digest()
