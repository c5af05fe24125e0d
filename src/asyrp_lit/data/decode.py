"""One image, a file, its bytes or a PIL image, as a tensor: every kind of picture becomes (3, S, S) in [-1, 1]."""

import struct
import zlib
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

#: What Pillow's readers raise on a broken file.
_READ_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)
#: A JPEG file of more pixels than this is decoded at a half, a quarter or an eighth: within 2/255 of the whole of it,
#: in a tenth of the time and memory or less.
_MOST_WHOLE = 20_000_000
#: Pixels of what is decoded then per pixel of the result, along an edge, at least.
_OVERSAMPLING = 8


def _reduce_to_8_bit(image: Image.Image) -> Image.Image:
    """A grey image of 16-bit values (modes I;16 and I) as L: 65535 becomes 255. Pillow itself would clip."""
    values = np.asarray(image)
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it with 8 or 16 bits a channel")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _convert_to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Any mode to RGB; what is transparent shows the background."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _reduce_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _crop_and_resize(image: Image.Image, size: int) -> Image.Image:
    """The centred square, resized in one step (the same as short side first, then crop, without the wide image)."""
    width, height = image.size
    short = min(image.size)
    if not short:
        raise ValueError(f"it has no pixels, its size is {width} x {height}")
    left, top = (width - short) / 2, (height - short) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))


def _open(image: str | Path | bytes | Image.Image) -> AbstractContextManager[Image.Image]:
    if isinstance(image, Image.Image):
        return nullcontext(image)  # the caller's to close
    return Image.open(BytesIO(image) if isinstance(image, bytes) else Path(image).expanduser())


def _decode_upright(file: Image.Image, size: int) -> Image.Image:
    """A file of ours turned by EXIF, in place, for a copy of a photo can take 200 MB."""
    if file.width * file.height > _MOST_WHOLE:
        file.draft(None, (_OVERSAMPLING * size, _OVERSAMPLING * size))
    ImageOps.exif_transpose(file, in_place=True)
    return file


def load_image(
    image: str | Path | bytes | Image.Image, size: int, name: str | None = None, background: str = "white"
) -> Float[Tensor, "3 size size"]:
    """One image as (3, S, S) float32 in [-1, 1]: upright, RGB, short side resized to ``size``, centre-cropped.

    EXIF orientation is applied, 16-bit grey is scaled, an animation gives its first frame.
    A JPEG file of over 20 megapixels is decoded at less than its size, within 2/255 of what its PIL image gives.

    Args:
        image: path of any file that Pillow reads, the bytes of one, or an image that Pillow has opened or made.
        size: edge of the result in pixels.
        name: what messages call it; ``None`` for the path.
        background: what shows where it is transparent, a colour that Pillow knows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an image, is damaged, has pixels without a known range, or is too large to be safe.
    """
    name = name or (str(image) if isinstance(image, str | Path) else "that was given")
    try:
        with _open(image) as file:
            upright = ImageOps.exif_transpose(file) if file is image else _decode_upright(file, size)
            pixels = _crop_and_resize(_convert_to_rgb(upright, background), size)
    except IsADirectoryError as error:
        raise ValueError(f"image {name} is a folder: give a file, or a list of files") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no image file {name}") from error
    except PermissionError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {name} has too many pixels ({error}); save a smaller copy") from error
    except _READ_ERRORS as error:
        hint = "replace or remove it, or leave it out with data.on_bad_image=skip (edit.py: on_bad_image=skip)"
        reason = "of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"image {name} cannot be read ({reason}); {hint}") from error
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div_(127.5).sub_(1)


def looks_like_image(content: bytes) -> bool:
    """Whether Pillow knows the format of these bytes; reads the header only."""
    try:
        with Image.open(BytesIO(content)):
            return True
    except (*_READ_ERRORS, Image.DecompressionBombError):
        return False
