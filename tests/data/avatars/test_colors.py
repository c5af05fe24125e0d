"""Colour ranges: classes stay apart, backgrounds pastel."""

import colorsys

import pytest

from asyrp_lit.data.avatars.colors import (
    HAIR_COLORS,
    SKIN_COLORS,
    draw_background,
    draw_class_color,
    draw_clothes_color,
    mix_colors,
)
from asyrp_lit.data.avatars.traits import LABELS

DRAWS = [k / 40 for k in range(40)] + [0.999999]


def channels(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color))


def test_mixing_by_hand():
    assert mix_colors("000000", "ff8000", 0.0) == "000000"
    assert mix_colors("000000", "ff8000", 0.5) == "804000"
    assert mix_colors("102030", "ff8000", 1.0) == "ff8000"


@pytest.mark.parametrize("palette", [HAIR_COLORS, SKIN_COLORS])
def test_every_drawn_colour_is_nearest_to_its_own_class_and_varies(palette):
    for name in palette:
        drawn = [draw_class_color(palette, name, draw) for draw in DRAWS]
        assert draw_class_color(palette, name, 0.5) == palette[name]
        assert len(set(drawn)) > 5
        for color in drawn:
            distances = {
                other: sum((a - b) ** 2 for a, b in zip(channels(color), channels(middle), strict=True))
                for other, middle in palette.items()
            }
            assert min(distances, key=distances.__getitem__) == name


def test_palettes_have_the_classes_of_the_labels():
    assert set(HAIR_COLORS) == set(LABELS["hair_color"])
    assert set(SKIN_COLORS) == set(LABELS["skin"])


@pytest.mark.parametrize(
    ("draw_color", "lightest", "darkest"), [(draw_background, 0.93, 0.8), (draw_clothes_color, 0.85, 0.17)]
)
def test_lightness_stays_in_its_range_and_every_hue_occurs(draw_color, lightest, darkest):
    drawn = [draw_color((hue, lightness, 0.5)) for hue in DRAWS for lightness in (0.0, 0.5, 0.999999)]
    hls = [colorsys.rgb_to_hls(*(c / 255 for c in channels(color))) for color in drawn]
    assert all(darkest - 0.01 <= lightness <= lightest + 0.01 for _, lightness, _ in hls)
    assert {int(6 * hue) for hue, _, _ in hls} == set(range(6))
