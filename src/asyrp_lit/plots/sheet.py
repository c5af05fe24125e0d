"""A sheet of several grids, one a direction, for a look at all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from asyrp_lit.plots.grid import Pixels, draw_grid, place_picture
from asyrp_lit.shapes import Images

#: Largest edge of a cell in pixels; larger images are shrunk.
_CELL = 128


class Block(NamedTuple):
    """One grid of a sheet.

    Attributes:
        columns: header -> images (N, 3, H, W) in [-1, 1].
        title: what it shows.
        notes: in grey under the title; ``None`` for none.
    """

    columns: dict[str, Images]
    title: str
    notes: str | None


def _shrink(images: Images) -> Tensor:
    edge = images.shape[-1]
    return images if edge <= _CELL else F.interpolate(images.float(), (_CELL, _CELL), mode="area")


def _rasterise(figure: Figure) -> Pixels:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def _join(pictures: Sequence[Pixels], axis: int) -> Pixels:
    """Pictures side by side (axis 1) or under each other (axis 0), short ones filled up with white."""
    size = max(picture.shape[1 - axis] for picture in pictures)
    padded = [
        np.pad(p, [(0, 0 if axis == side else size - p.shape[side]) for side in (0, 1)] + [(0, 0)], constant_values=255)
        for p in pictures
    ]
    return np.concatenate(padded, axis=axis)


def draw_sheet(blocks: Sequence[Block], per_row: int = 2) -> Figure:
    """Labelled grids, ``per_row`` beside each other; images above 128 px are shrunk to that.

    Raises:
        ValueError: there is no block or no image, or ``per_row`` is under 1.
    """
    if not blocks or per_row < 1:
        raise ValueError(f"a sheet needs blocks and a number of them a row, got {len(blocks)} and {per_row}")
    grids = [
        draw_grid({name: _shrink(images) for name, images in block.columns.items()}, block.title, block.notes)
        for block in blocks
    ]
    pictures = [_rasterise(grid) for grid in grids]
    rows = [_join(pictures[first : first + per_row], axis=1) for first in range(0, len(pictures), per_row)]
    return place_picture(_join(rows, axis=0), head=0)
