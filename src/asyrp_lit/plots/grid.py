"""Grids of images: labelled for a report, bare for a look at many samples."""

import re
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from asyrp_lit.shapes import Images

Pixels = NDArray[np.uint8]

DPI = 100
#: Edge on screen, in pixels, that the automatic zoom aims for.
_CELL = 128
GAP, MARGIN = 4, 10
_TITLE, _NOTES, HEADER = 11.0, 9.0, 9.0
#: Width of a letter and height of a line as multiples of the font size, for matplotlib's own DejaVu Sans.
LETTER, _LINE = 0.62, 1.4
_GREY = "#555555"


def to_pixels(images: Images) -> Pixels:
    """Images in [-1, 1] -> uint8 (N, H, W, C); values outside are clipped."""
    scaled = (images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5
    pixels: Pixels = scaled.round().byte().permute(0, 2, 3, 1).numpy()
    return pixels


def tile(pixels: Pixels, columns: int, zoom: int) -> Pixels:
    """Lay out (N, H, W, 3) row by row on white, each pixel repeated ``zoom`` times; the last row may be short."""
    cells = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = cells.shape[1:3]
    rows = -(-len(cells) // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = cell
    return canvas


def in_pixels(points: float) -> float:
    """A font size in pixels of the figure."""
    return points * DPI / 72


def _wrap(text: str | None, points: float, width: int) -> list[str]:
    letters = max(8, int(width / in_pixels(points * LETTER)))
    kept = re.sub(r"(?<! ) (?! )", "\N{NO-BREAK SPACE}", text or "") if "  " in (text or "") else text or ""
    return [line for part in kept.splitlines() for line in textwrap.wrap(part, letters)]


def choose_zoom(zoom: int | None, edge: int) -> int:
    """Screen pixels per image pixel; ``None`` takes what makes a cell about 128 px."""
    if zoom is None:
        return max(1, round(_CELL / edge))
    if zoom < 1:
        raise ValueError(f"zoom must be 1 or more, got {zoom}")
    return zoom


def place_picture(picture: Pixels, head: int) -> Figure:
    """A figure that shows ``picture`` pixel for pixel under ``head`` free pixel rows."""
    height, width = picture.shape[:2]
    full_width, full_height = width + 2 * MARGIN, height + 2 * MARGIN + head
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI, facecolor="white")
    rectangle = (MARGIN / full_width, MARGIN / full_height, width / full_width, height / full_height)
    axes = figure.add_axes(rectangle)
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return figure


def frame_picture(picture: Pixels, title: str, notes: str | None, header: float = 0) -> Figure:
    """A figure of ``picture`` under its title and notes, with ``header`` pixel rows left between them."""
    lines = [(line, _TITLE, "black") for line in _wrap(title, _TITLE, picture.shape[1])]
    lines += [(line, _NOTES, _GREY) for line in _wrap(notes, _NOTES, picture.shape[1])]
    figure = place_picture(picture, round(sum(in_pixels(size * _LINE) for _, size, _ in lines) + header))
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    y = height - MARGIN * 0.6
    for line, size, color in lines:
        figure.text(MARGIN / width, y / height, line, size=size, color=color, va="top")
        y -= in_pixels(size * _LINE)
    return figure


def draw_grid(columns: Mapping[str, Images], title: str, notes: str | None = None, zoom: int | None = None) -> Figure:
    """A labelled grid: one column per entry, one row per image.

    Args:
        columns: header -> images (N, 3, H, W) in [-1, 1], all of one shape.
        title: the attribute and what it stands for.
        notes: the metrics, in grey under the title; items between double spaces are never broken in two. ``None``
            leaves the line away.
        zoom: screen pixels per image pixel; ``None`` takes what makes a cell about 128 px.

    Raises:
        ValueError: there are no images, the columns differ in shape, or ``zoom`` is under 1.
    """
    shapes = {name: tuple(images.shape) for name, images in columns.items()}
    if len(set(shapes.values())) != 1 or 0 in next(iter(shapes.values())):
        raise ValueError(f"columns must hold images of one shape (N, 3, H, W), N at least 1; got {shapes}")
    edge = next(iter(shapes.values()))[-1]
    zoom = choose_zoom(zoom, edge)
    pixels = np.stack([to_pixels(images) for images in columns.values()], axis=1)
    picture = tile(pixels.reshape(-1, *pixels.shape[2:]), len(columns), zoom)

    cell = edge * zoom
    header = min(HEADER, cell / in_pixels(LETTER * max(map(len, columns))))
    figure = frame_picture(picture, title, notes, in_pixels(HEADER * _LINE) + GAP)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    base = (MARGIN + picture.shape[0] + GAP + 2) / height
    for index, name in enumerate(columns):
        centre = MARGIN + index * (cell + GAP) + cell / 2
        figure.text(centre / width, base, name, size=header, ha="center", va="baseline")
    return figure


def draw_contact_sheet(images: Images, columns: int = 8, zoom: int | None = None) -> Figure:
    """Many images without labels, row by row, for samples.

    Args:
        images: (N, 3, H, W) in [-1, 1], N at least 1.
        columns: images per row, 1 or more.
        zoom: screen pixels per image pixel; ``None`` takes what makes a cell about 128 px.

    Raises:
        ValueError: there are no images, or ``columns`` or ``zoom`` is under 1.
    """
    if len(images) == 0 or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns, got {len(images)} images in {columns} columns")
    zoom = choose_zoom(zoom, images.shape[-1])
    return place_picture(tile(to_pixels(images), min(columns, len(images)), zoom), head=0)
