"""Pictures as people have them, in and out: PIL images and tensors."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from asyrp_lit.data.decode import load_image
from asyrp_lit.data.latents import to_uint8
from asyrp_lit.hspace.direction import IMAGE_CHANNELS
from asyrp_lit.shapes import Edits, Images

#: A picture that ``load_image`` reads.
Picture = Image.Image | Path | str
#: One picture, several, or a tensor (B, 3, S, S) in [-1, 1], or several.
ImageInput = Picture | Sequence[Picture] | Tensor | Sequence[Tensor]
#: Edits are not clipped, so a tensor may leave [-1, 1], but not by this much.
_MOST = 2.0


def to_tensor(images: ImageInput, size: int) -> Images:
    """Pictures as (B, 3, S, S) float32 in [-1, 1].

    Args:
        images: PIL images or paths, of any size and mode: upright, on white, the short side resized and the centre
            cropped, as ``load_image`` does. Or tensors (B, 3, S, S) or (3, S, S) in [-1, 1], taken as they are.
        size: S, edge in pixels.

    Raises:
        FileNotFoundError: a path leads nowhere.
        TypeError: it is something else.
        ValueError: there is none, a picture cannot be read, or a tensor has another shape, kind or range.
    """
    if isinstance(images, Tensor):
        return _check_tensor(images, size)
    pictures: list[Any] = list(images) if isinstance(images, Iterable) and not isinstance(images, Picture) else [images]
    if not pictures:
        raise ValueError("there is no image: give a PIL image, a path, a list of them or a tensor")
    if all(isinstance(picture, Tensor) for picture in pictures):
        return torch.cat([_check_tensor(tensor, size) for tensor in pictures])
    for picture in pictures:
        if not isinstance(picture, Picture):
            raise TypeError(f"images must be PIL images and paths, or tensors, got {type(picture).__name__}")
    return torch.stack([load_image(picture, size) for picture in pictures])


def _check_tensor(images: Tensor, size: int) -> Images:
    batch = images[None] if images.ndim == 3 else images
    if batch.shape[1:] != (IMAGE_CHANNELS, size, size) or not len(batch):
        raise ValueError(
            f"a tensor of images must be (B, {IMAGE_CHANNELS}, {size}, {size}) for this model, got {(*images.shape,)}; "
            "PIL images may have any size"
        )
    if not batch.is_floating_point():
        raise ValueError(f"a tensor of images must be floats in [-1, 1], got {images.dtype}")
    if not (batch.abs() <= _MOST).all():
        raise ValueError(
            f"a tensor of images must be finite and in [-1, 1], got {batch.min().item():g} to {batch.max().item():g}"
        )
    return batch.float()


def to_pil(images: Edits) -> list[Image.Image]:
    """Images in [-1, 1], (B, 3, S, S), as PIL images; values outside are clipped."""
    pixels = to_uint8(images.detach().float().cpu()).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(picture) for picture in pixels]
