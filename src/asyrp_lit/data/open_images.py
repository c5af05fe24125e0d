"""Images on disk by their path: a folder or an LMDB, whatever is there, whole or split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyrp_lit.data.encoded import EncodedImages
from asyrp_lit.data.images import ImageFolder
from asyrp_lit.data.lmdb_images import ImageLMDB
from asyrp_lit.data.lmdb_reader import is_lmdb
from asyrp_lit.data.split import SeededPart

Place = str | Path | Sequence[str]


def find_place(folder: Place) -> Path:
    """A path, or the first of several that exists.

    Raises:
        FileNotFoundError: none of several exists.
    """
    if isinstance(folder, str | Path):
        return Path(folder).expanduser()
    paths = [Path(path).expanduser() for path in folder]
    for path in paths:
        if path.exists():
            return path
    tried = ", nor ".join(map(str, paths))
    raise FileNotFoundError(
        f"there is neither {tried}: put the images there, set ASYRP_DATA to the folder of data sets, or name their "
        "folder with data.train.folder= or data.val.folder="
    )


def open_images(folder: Place, size: int, resolution: int | None = None, **options: Any) -> EncodedImages:
    """The images at a path: of an LMDB where there is a ``data.mdb``, else of a folder, or one image file.

    Args:
        folder: path, or several of which the first that exists is taken.
        size: edge of every image in pixels.
        resolution: of an LMDB with several; ``None`` for ``size``.
        options: those of ``EncodedImages``, which see for the errors too.
    """
    path = find_place(folder)
    if is_lmdb(path):
        return ImageLMDB(path, size, resolution, **options)
    return ImageFolder(path, size, **options)


def open_split(
    split: str,
    folder: Place | None,
    other: Place | None,
    size: int,
    val_images: int | float,
    split_seed: int,
    **options: Any,
) -> EncodedImages:
    """The train or val images: of two folders, or of one that is split by a seed.

    Args:
        split: ``train`` or ``val``.
        folder: the split's own place, as for ``open_images``; ``None`` is possible for val only.
        other: that of the other split; where val has none, it is given a part of train's.
        size: edge of every image in pixels.
        val_images: of one folder, how many are val's: a share, above 0 and below 1, or a count.
        split_seed: of one folder, decides which they are.
        options: those of ``open_images``.

    Raises:
        FileNotFoundError, ValueError: as ``open_images``, or no train folder is given.
    """
    train, val = (folder, other) if split == "train" else (other, folder)
    if train is None and (split == "train" or val is None):
        raise ValueError("no image folder is given: data=folder needs data.train.folder=/path/to/images")
    part = SeededPart(split, val_images, split_seed) if val is None else None
    place = val if split == "val" and val is not None else train
    assert place is not None
    return open_images(place, size, part=part, **options)


def find_shared(train: object, val: object) -> list[str]:
    """Keys of the images that both splits have: those of one place only, for names of two places say nothing."""
    if not isinstance(train, EncodedImages) or not isinstance(val, EncodedImages):
        return []
    if train.path.resolve() != val.path.resolve():
        return []
    known = set(train.keys)
    return [key for key in val.keys if key in known]
