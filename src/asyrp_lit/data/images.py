"""Any folder of images, or one image file, as an image source."""

import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from natsort import natsorted
from PIL import Image, ImageOps
from torch import Tensor

from asyrp_lit.data.source import ImageItem

log = logging.getLogger(__name__)

_COMMON = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: Suffixes, in lower case, that count as images: the common ones of those this Pillow reads.
SUFFIXES = tuple(suffix for suffix in _COMMON if suffix in Image.registered_extensions())
#: What Pillow's readers raise on a broken file.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)
#: Names of bad files that a warning spells out.
_NAMED = 5


def _walk_files(folder: Path) -> Iterator[Path]:
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            yield from (Path(parent, name) for name in files if not name.startswith("."))
        seen.add(real)


def list_images(folder: str | Path) -> list[Path]:
    """Image files below a folder in natural order (``2.png`` before ``10.png``); hidden files and folders are ignored.

    Args:
        folder: searched at any depth through links; a file gives itself, whatever its suffix.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist; give the path of a folder or of one image")
    images = [path for path in _walk_files(folder) if path.suffix.lower() in SUFFIXES]
    return list(natsorted(images, key=lambda path: path.relative_to(folder).as_posix()))


def _reduce_to_8_bit(image: Image.Image) -> Image.Image:
    """A grey image of 16-bit values (modes I;16 and I) as L: 65535 becomes 255. Pillow itself would clip."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it with 8 or 16 bits a channel")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _convert_to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; what is transparent shows white."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _reduce_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _crop_and_resize(image: Image.Image, size: int) -> Image.Image:
    """The centred square, resized in one step (the same as short side first, then crop, without the wide image)."""
    width, height = image.size
    short = min(image.size)
    left, top = (width - short) / 2, (height - short) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))


def load_image(path: str | Path, size: int) -> Float[Tensor, "3 size size"]:
    """One image file as (3, S, S) float32 in [-1, 1]: upright, RGB, short side resized to ``size``, centre-cropped.

    EXIF orientation is applied, transparency shows white, 16-bit grey is scaled, an animation gives its first frame.

    Args:
        path: any file that Pillow reads.
        size: edge of the result in pixels.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is damaged, has pixels without a known range, or is too large to be safe.
    """
    try:
        with Image.open(path) as file:
            image = _crop_and_resize(_convert_to_rgb(ImageOps.exif_transpose(file)), size)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {path} has too many pixels ({error}); save a smaller copy") from error
    except _READ_ERRORS as error:
        hint = "replace or remove the file, or leave it out with data.on_bad_image=skip"
        raise ValueError(f"image {path} cannot be read ({error}); {hint}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(127.5).sub_(1)


class ImageFolder:
    """The images of a folder, or one image file, as an ``ImageSource`` without labels.

    Args:
        folder: folder or file; ``None`` (the value in ``conf/data/folder.yaml``) raises.
        size: edge of every image in pixels.
        on_bad_image: ``error`` raises when a damaged file is read; ``skip`` reads every file on opening, leaves the
            damaged ones out and logs one warning.
        name: for reports and folders; ``None`` takes the folder's own name.
        limit: how many files of the sorted list to take; ``None`` takes all. Damaged files count.
        start: how many files to pass over first, so that one folder gives disjoint splits.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: an argument is out of range, or no image is left.
    """

    def __init__(
        self,
        folder: str | Path | None,
        size: int,
        on_bad_image: str = "error",
        name: str | None = None,
        limit: int | None = None,
        start: int = 0,
    ) -> None:
        if folder is None:
            raise ValueError("no image folder is given: data=folder needs data.train.folder=/path/to/images")
        if on_bad_image not in ("error", "skip"):
            raise ValueError(f"on_bad_image must be error or skip, not {on_bad_image!r}")
        if size < 1 or start < 0 or (limit is not None and limit < 1):
            raise ValueError(f"size and limit must be 1 or more, start 0 or more; got {size=}, {limit=}, {start=}")
        self.folder = Path(folder).expanduser()
        self.size = size
        self.name = name or self.folder.resolve().name
        self.paths = self._open(start, limit, skip=on_bad_image == "skip")
        base = self.folder.parent if self.folder.is_file() else self.folder
        self.keys = [path.relative_to(base).as_posix() for path in self.paths]

    def _open(self, start: int, limit: int | None, skip: bool) -> list[Path]:
        found = list_images(self.folder)
        if not found:
            raise ValueError(f"folder {self.folder} has no images; accepted suffixes: {' '.join(SUFFIXES)}")
        paths = found[start:][:limit]
        if not paths:
            raise ValueError(f"folder {self.folder} has {len(found)} images, start={start} leaves none; lower start")
        return self._leave_out_bad(paths) if skip else paths

    def _leave_out_bad(self, paths: list[Path]) -> list[Path]:
        good, bad = [], []
        for path in paths:
            try:
                load_image(path, self.size)
            except ValueError as error:
                log.debug("%s", error)
                bad.append(path)
            else:
                good.append(path)
        if not good:
            raise ValueError(f"none of the {len(bad)} images of {self.folder} can be read; check the folder")
        if bad:
            named = ", ".join(path.name for path in bad[:_NAMED]) + (", ..." if len(bad) > _NAMED else "")
            log.warning("left out %d of %d images of %s, unreadable: %s", len(bad), len(paths), self.folder, named)
        return good

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``index``; ``labels`` is empty."""
        return ImageItem(load_image(self.paths[index], self.size), torch.empty(0, dtype=torch.int64))

    def fingerprint(self) -> str:
        """Hex digits over the edge and, for every image, relative path, bytes and sha256 of the content.

        Reads every file once, on the first call.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.size} px\n".encode())
        for key, path in zip(self.keys, self.paths, strict=True):
            content = path.read_bytes()
            digest.update(f"{key}\n{len(content)} {hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]
