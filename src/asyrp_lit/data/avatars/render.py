"""Draw a portrait from its traits with DiceBear's avataaars style (by Pablo Stanley)."""

import io
import json
from functools import cache
from importlib.resources import files

import resvg_py
from dicebear import Avatar, Style
from PIL import Image

from asyrp_lit.data.avatars.colors import HAIR_COLORS, SKIN_COLORS, draw_class_color
from asyrp_lit.data.avatars.traits import ACCESSORIES, BEARDS, EYEBROWS, MOUTHS, TOPS, Traits, pick

#: Portraits are drawn this many times larger and reduced with Lanczos, which gives clean edges.
SUPERSAMPLING = 2


@cache
def _style() -> Style:
    definition = files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")
    return Style(json.loads(definition))


def dicebear_options(traits: Traits, size: int) -> dict[str, object]:
    """DiceBear options that leave nothing to its own random numbers."""
    hair_color = draw_class_color(HAIR_COLORS, traits.hair_color, traits.hair_draw)
    options: dict[str, object] = {
        "seed": "asyrp_lit",
        "size": size,
        "backgroundColor": [traits.background],
        "mouthVariant": [pick(MOUTHS[traits.expression], traits.mouth_draw)],
        "eyebrowsVariant": [pick(EYEBROWS[traits.expression], traits.eyebrows_draw)],
        "eyesVariant": [traits.eyes],
        "clothesVariant": [traits.clothes],
        "clothesColor": [traits.clothes_color],
        "skinColor": [draw_class_color(SKIN_COLORS, traits.skin, traits.skin_draw)],
        "hairColor": [hair_color],
        "facialHairColor": [hair_color],
        "facialHairProbability": 0,
        "accessoriesProbability": 0,
        "topProbability": 0,
    }
    if traits.hair_length != "bald":
        options |= {"topProbability": 100, "topVariant": [pick(TOPS[traits.hair_length], traits.top_draw)]}
    if traits.beard == "yes":
        options |= {"facialHairProbability": 100, "facialHairVariant": [pick(BEARDS, traits.beard_draw)]}
    if traits.glasses != "no":
        variant = pick(ACCESSORIES[traits.glasses], traits.glasses_draw)
        options |= {"accessoriesProbability": 100, "accessoriesVariant": [variant], "accessoriesColor": ["262e33"]}
    return options


def render_portrait(traits: Traits, size: int = 64) -> Image.Image:
    """Draw one portrait.

    Args:
        traits: what to draw.
        size: edge in pixels.

    Returns:
        RGB image, ``size`` x ``size``; equal arguments give equal pixels.
    """
    drawn = size * SUPERSAMPLING
    svg = Avatar(_style(), dicebear_options(traits, drawn)).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=drawn, height=drawn, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
