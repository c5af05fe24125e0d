"""Pictures as diffusers has them: arrays and tensors in [0, 1] instead of [-1, 1]."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from asyrp_lit.library.images import ImageInput, Picture, to_pil
from asyrp_lit.shapes import Edits

#: What a pipeline returns: PIL images, an array (B, S, S, 3) or a tensor (B, 3, S, S).
OutputType = Literal["pil", "np", "pt"]
#: What a pipeline edits: as the library does, but tensors (B, 3, S, S) and arrays (B, S, S, 3) in [0, 1].
PipelineInput = Picture | Sequence[Picture] | Tensor | np.ndarray | Sequence[Tensor | np.ndarray]
#: What a pipeline gives.
PipelineOutput = list[object] | np.ndarray | Tensor


def check_output_type(output_type: str) -> OutputType:
    """The output type of that name.

    Raises:
        ValueError: there is none.
    """
    for known in get_args(OutputType):
        if output_type == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"output_type must be one of {', '.join(get_args(OutputType))}, got {output_type!r}")


def read_pixels(images: PipelineInput) -> ImageInput:
    """Pictures for the library's functions: tensors and arrays, one or several, moved from [0, 1] to [-1, 1].

    Raises:
        ValueError: they are not floats in [0, 1], or have other axes.
    """
    if isinstance(images, Tensor | np.ndarray):
        return _read_one(images)
    if isinstance(images, Sequence) and not isinstance(images, str):
        return [_read_one(each) if isinstance(each, Tensor | np.ndarray) else each for each in images]  # type: ignore[return-value]
    return images


def _read_one(images: Tensor | np.ndarray) -> Tensor:
    if images.ndim not in (3, 4):
        raise ValueError(
            "tensors for a pipeline must be (B, 3, S, S) or (3, S, S), arrays (B, S, S, 3) or (S, S, 3), got "
            f"{(*images.shape,)}"
        )
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        images = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3)
    if isinstance(images, np.ndarray) or not images.is_floating_point() or not ((images >= 0) & (images <= 1)).all():
        raise ValueError(
            "tensors and arrays for a pipeline must be floats in [0, 1], as in the rest of diffusers; asyrp_lit.edit "
            "takes [-1, 1]"
        )
    return 2 * images.float() - 1


def show_pixels(images: Edits, output_type: OutputType) -> PipelineOutput:
    """Images in [-1, 1] as asked for; arrays and tensors are clipped to [0, 1]."""
    if output_type == "pil":
        return [*to_pil(images)]
    pixels = (images / 2 + 0.5).clamp(0, 1)
    return pixels if output_type == "pt" else pixels.cpu().permute(0, 2, 3, 1).numpy()
