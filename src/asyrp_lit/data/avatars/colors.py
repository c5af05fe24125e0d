"""Colours of the portraits, drawn from continuous ranges.

A palette of a few fixed colours would be a mixture of points: a diffusion model must decide between them within a few
steps, and there DDIM's steps are too coarse (a portrait inverted and sampled again in 40 steps comes back with another
background). Ranges leave nothing to decide; classes that are labels (hair, skin) keep a gap between their ranges.
"""

import colorsys
from collections.abc import Mapping, Sequence

#: Class -> colour at the middle of its range; ranges run towards the entries before and after.
HAIR_COLORS = {"black": "2c1b18", "brown": "724133", "red": "c93305", "blond": "d6b370", "grey": "e8e1e1"}
SKIN_COLORS = {"dark": "614335", "brown": "ae5d29", "tanned": "d08b5b", "light": "edb98a", "pale": "ffdbb4"}

#: Share of the way to the next class's colour that a class reaches at the most.
_REACH = 0.2
_BACKGROUND_RANGES = ((0.0, 1.0), (0.80, 0.93), (0.35, 0.85))  # hue, lightness, saturation
_CLOTHES_RANGES = ((0.0, 1.0), (0.17, 0.85), (0.1, 0.85))


def mix_colors(first: str, second: str, share: float) -> str:
    """The colour a ``share`` (0 to 1) of the way from ``first`` to ``second``, all six hex digits of sRGB."""
    pairs = zip(bytes.fromhex(first), bytes.fromhex(second), strict=True)
    return bytes(round(a + share * (b - a)) for a, b in pairs).hex()


def _draw_hls(ranges: Sequence[tuple[float, float]], draws: Sequence[float]) -> str:
    values = [low + draw * (high - low) for (low, high), draw in zip(ranges, draws, strict=True)]
    return bytes(round(255 * channel) for channel in colorsys.hls_to_rgb(*values)).hex()


def draw_background(draws: Sequence[float]) -> str:
    """A pastel colour from three numbers in [0, 1)."""
    return _draw_hls(_BACKGROUND_RANGES, draws)


def draw_clothes_color(draws: Sequence[float]) -> str:
    """Any colour but the darkest and lightest from three numbers in [0, 1)."""
    return _draw_hls(_CLOTHES_RANGES, draws)


def draw_class_color(palette: Mapping[str, str], name: str, draw: float) -> str:
    """A colour of the class ``name``: its palette colour, moved up to 0.2 of the way to a neighbour's.

    Args:
        palette: class -> colour, neighbours in order.
        name: the class.
        draw: number in [0, 1); 0.5 is the palette colour.
    """
    colors = list(palette.values())
    place = list(palette).index(name) + _REACH * (2 * draw - 1)
    place = min(max(place, 0.0), len(colors) - 1.0)
    below = min(int(place), len(colors) - 2)
    return mix_colors(colors[below], colors[below + 1], place - below)
