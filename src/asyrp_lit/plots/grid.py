"""Grids of images: labelled for a report, bare for a look at many samples."""

import re
import textwrap
from collections.abc import Mapping, Sequence

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
#: Letters of a line of a row's name.
_LETTERS = 24


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
        figure.text(MARGIN / width, y / height, line, size=size, color=color, va="top", parse_math=False)
        y -= in_pixels(size * _LINE)
    return figure


def measure_names(names: Sequence[str]) -> int:
    """Pixels that the longest of some names takes, with a little room; none where there are no names."""
    return round(max(map(len, names)) * in_pixels(HEADER * LETTER)) + 8 if names else 0


def _break_name(name: str) -> str:
    """A name in about three lines to stand beside a row; of a longer one the middle is left out."""
    half = 3 * _LETTERS // 2
    short = name if len(name) <= 2 * half else f"{name[:half]}…{name[1 - half :]}"
    return "\n".join(textwrap.wrap(short, _LETTERS))


def draw_grid(
    columns: Mapping[str, Images],
    title: str,
    notes: str | None = None,
    zoom: int | None = None,
    rows: Sequence[str] = (),
) -> Figure:
    """A labelled grid: one column per entry, one row per image.

    Args:
        columns: header -> images (N, 3, H, W) in [-1, 1], all of one shape. A header that is too wide is broken at its
            commas, then set smaller.
        title: the attribute and what it stands for.
        notes: the metrics, in grey under the title; items between double spaces are never broken in two. ``None``
            leaves the line away.
        zoom: screen pixels per image pixel; ``None`` takes what makes a cell about 128 px.
        rows: names of the images, shortened where they are long; empty for none.

    Raises:
        ValueError: there are no images, the columns differ in shape, names do not fit their number, or ``zoom`` is
            under 1.
    """
    shapes = {name: tuple(images.shape) for name, images in columns.items()}
    if len(set(shapes.values())) != 1 or 0 in next(iter(shapes.values())):
        raise ValueError(f"columns must hold images of one shape (N, 3, H, W), N at least 1; got {shapes}")
    num_rows, _, _, edge = next(iter(shapes.values()))
    if len(rows) not in (0, num_rows):
        raise ValueError(f"rows must name all of the {num_rows} images or none, got {len(rows)} names")
    zoom = choose_zoom(zoom, edge)
    pixels = np.stack([to_pixels(images) for images in columns.values()], axis=1)
    names = [_break_name(name) for name in rows]
    left = measure_names([line for name in names for line in name.splitlines()])
    picture = tile(pixels.reshape(-1, *pixels.shape[2:]), len(columns), zoom)
    picture = np.pad(picture, ((0, 0), (left, 0), (0, 0)), constant_values=255)

    cell = edge * zoom
    wide = measure_names(list(columns)) > cell
    headers = [name.replace(", ", ",\n") if wide else name for name in columns]
    lines = [header.splitlines() for header in headers]
    room = in_pixels(HEADER * _LINE) * max(map(len, lines)) + GAP
    size = min(HEADER, cell / in_pixels(LETTER * max(len(line) for header in lines for line in header)))
    figure = frame_picture(picture, title, notes, room)
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    base = (MARGIN + picture.shape[0] + GAP + 2) / height
    for index, header in enumerate(headers):
        centre = MARGIN + left + index * (cell + GAP) + cell / 2
        figure.text(centre / width, base, header, size=size, ha="center", va="baseline", parse_math=False)
    for index, name in enumerate(names):
        middle = MARGIN + picture.shape[0] - index * (cell + GAP) - cell / 2
        _write_name(figure, MARGIN + left - 6, middle, name, left)
    return figure


def _write_name(figure: Figure, right: int, middle: float, name: str, room: int) -> None:
    """A name that ends at a place, in pixels from the bottom left; smaller where it is wider than ``room`` pixels."""
    width, height = (round(inches * DPI) for inches in figure.get_size_inches())
    x, y = right / width, middle / height
    text = figure.text(x, y, name, size=HEADER, ha="right", va="center", parse_math=False)  # a file's name may have $
    text.set_fontsize(HEADER * min(1, room / max(1, text.get_window_extent().width)))  # capitals are wider than LETTER


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
