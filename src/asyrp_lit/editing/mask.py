"""Where in the picture an edit may act."""

from pathlib import Path

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from asyrp_lit.data.decode import load_image
from asyrp_lit.hspace.direction import Space
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Mask

#: A mask whose brightest place has less of white than this is taken for a mistake.
_DARKEST = 0.05


def _find_size(model: HSpaceUNet, space: Space) -> int:
    """Edge of what the directions of a space act on."""
    return model.h_size if space == "h" else model.image_size


def read_mask(picture: str | Path | Image.Image, model: HSpaceUNet, space: Space) -> Mask:
    """The mask of a picture, white where to edit, at the resolution that the directions act on.

    What is transparent counts as black. It is resized and cropped as the images are, then averaged over the patch of
    each place.

    Raises:
        FileNotFoundError, ValueError: it cannot be read, or is black or nearly so everywhere, as one of 0 and 1 is.
    """
    image = load_image(picture, model.image_size, background="black")
    grey: Tensor = (image.mean(dim=0, keepdim=True)[None] + 1) / 2
    if grey.max() < _DARKEST:
        name = "that was given" if isinstance(picture, Image.Image) else picture
        raise ValueError(
            f"the mask {name} is black everywhere or nearly so, its brightest place has {grey.max():.3f} of white: "
            "where to edit is white, 255 of 8 bits or 65535 of 16"
        )
    return F.adaptive_avg_pool2d(grey, _find_size(model, space))


def check_mask(mask: Tensor, model: HSpaceUNet, space: Space) -> Mask:
    """A mask that is given as a tensor.

    Raises:
        TypeError: it is none.
        ValueError: it has another shape or range, or is 0 everywhere.
    """
    size = _find_size(model, space)
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"mask must be a tensor (1, 1, {size}, {size}), got {type(mask).__name__}; where= takes a picture or path"
        )
    if mask.shape != (1, 1, size, size):
        raise ValueError(
            f"mask must be (1, 1, {size}, {size}), one number for each place that the directions act on, got "
            f"{(*mask.shape,)}; where= takes a picture of any size"
        )
    if not ((mask >= 0) & (mask <= 1)).all() or not mask.any():
        raise ValueError(
            f"mask must be in [0, 1] and not 0 everywhere, got {mask.min().item():g} to {mask.max().item():g}"
        )
    return mask.float()
