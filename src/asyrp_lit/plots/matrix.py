"""Grids of images with named rows and columns: what two settings do, or one thing along time."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from asyrp_lit.plots.grid import DPI, GAP, HEADER, MARGIN, choose_zoom, frame_picture, measure_names, to_pixels

#: One image for every row and column, in [-1, 1].
Cells = Float[Tensor, "rows columns channels height width"]
#: Images beside the cells, in [-1, 1].
Aside = Mapping[str, Float[Tensor, "channels height width"]]
#: Pixels from the top left corner.
Place = int | float
#: Pixels of a line of text, of a coloured bar, between parts of a figure.
_TEXT, _BAND, _BREAK = 20, 18, 14


class Band(NamedTuple):
    """A coloured bar above neighbouring columns, with a word in it; both columns are included."""

    first: int
    last: int
    text: str
    color: str


class _Sheet:
    """A white canvas with images, bars and words, all in pixels from its top left corner."""

    def __init__(self, width: int, height: int, zoom: int) -> None:
        self.canvas = np.full((height, width, 3), 255, dtype=np.uint8)
        self.zoom = zoom
        self.words: list[tuple[Place, Place, str, dict[str, Any]]] = []
        self.bars: list[tuple[Place, Place, Place, str]] = []

    def paste(self, left: int, top: int, image: Float[Tensor, "channels height width"]) -> None:
        pixels = to_pixels(image[None])[0].repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)
        self.canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels

    def write(self, x: Place, y: Place, text: str, **style: Any) -> None:
        """A word around (x, y)."""
        self.words.append((x, y, text, {"ha": "center", "va": "center", "size": HEADER, "parse_math": False} | style))

    def fill(self, left: Place, right: Place, top: Place, band: Band) -> None:
        self.bars.append((left, right, top, band.color))
        self.write((left + right) / 2, top + _BAND / 2, band.text, color="white")

    def draw(self, title: str, notes: str | None) -> Figure:
        figure = frame_picture(self.canvas, title, notes)
        width, height = (inches * DPI for inches in figure.get_size_inches())
        floor = MARGIN + self.canvas.shape[0]
        for left, right, top, color in self.bars:
            place = ((MARGIN + left) / width, (floor - top - _BAND) / height)
            figure.add_artist(Rectangle(place, (right - left) / width, _BAND / height, color=color, linewidth=0))
        for x, y, text, style in self.words:
            figure.text((MARGIN + x) / width, (floor - y) / height, text, **style)
        return figure


def draw_matrix(
    cells: Cells,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    notes: str | None = None,
    groups: Sequence[str] = (),
    bands: Sequence[Band] = (),
    aside: Aside | None = None,
) -> Figure:
    """Images in named rows and columns.

    Args:
        cells: (R, C, 3, H, W) in [-1, 1].
        rows, columns: their names.
        title: headline.
        notes: in grey under it.
        groups: names of blocks of equally many rows, written upwards; empty for one block without a name.
        bands: coloured bars between the names of the columns and the images.
        aside: name -> image, in a column of their own on the left, which may be longer than the rows.

    Raises:
        ValueError: there are no cells, or names do not fit their number.
    """
    aside = aside or {}
    num_rows, num_columns = _check_fits(cells, rows, columns, groups)
    zoom = choose_zoom(None, cells.shape[-1])
    edge = cells.shape[-1] * zoom
    names = measure_names(list(aside))
    start = names + (edge + _BREAK if aside else 0) + (_TEXT if groups else 0) + measure_names(rows)
    ceiling = _TEXT + (_BAND + GAP if bands else 0)
    per_group = num_rows // max(1, len(groups))
    lefts = [start + k * (edge + GAP) for k in range(num_columns)]
    breaks = [min(k, num_rows - 1) // per_group for k in range(max(num_rows, len(aside)))]
    tops = [ceiling + k * (edge + GAP) + before * (_BREAK - GAP) for k, before in enumerate(breaks)]

    sheet = _Sheet(lefts[-1] + edge, tops[-1] + edge, zoom)
    for row, top, name in zip(cells, tops[:num_rows], rows, strict=True):
        sheet.write(start - 6, top + edge / 2, name, ha="right")
        for image, left in zip(row, lefts, strict=True):
            sheet.paste(left, top, image)
    for left, name in zip(lefts, columns, strict=True):
        sheet.write(left + edge / 2, _TEXT / 2 - 1, name)
    for band in bands:
        sheet.fill(lefts[band.first], lefts[band.last] + edge, _TEXT, band)
    for (name, image), top in zip(aside.items(), tops, strict=False):
        sheet.write(names - 6, top + edge / 2, name, ha="right")
        sheet.paste(names, top, image)
    for name, top in zip(groups, tops[:num_rows:per_group], strict=False):
        middle = top + (per_group * (edge + GAP) - GAP) / 2
        sheet.write(_TEXT / 2, middle, name, rotation=90, color="#555555")
    return sheet.draw(title, notes)


def _check_fits(cells: Cells, rows: Sequence[str], columns: Sequence[str], groups: Sequence[str]) -> tuple[int, int]:
    given = (len(rows), len(columns))
    if cells.numel() == 0 or tuple(cells.shape[:2]) != given:
        raise ValueError(f"cells must be one or more for {given[0]} rows and {given[1]} columns, got {cells.shape[:2]}")
    if groups and len(rows) % len(groups):
        raise ValueError(f"{len(rows)} rows cannot be split into {len(groups)} groups")
    return given
