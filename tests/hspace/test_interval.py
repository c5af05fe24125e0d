"""t_edit and t_boost; ``data/celeba_curves.csv`` holds the curves that the authors of Asyrp published for CelebA-HQ.

LPIPS(x_0, P_t) and LPIPS(x_0, x_t) of t = 1 to 540, as printed in the released code's lookup table.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval, find_first_crossing

#: Cosine of the two bare prompts under ViT-B/16 -> t_edit, as measured on the released curves.
PUBLISHED = {
    "smiling": (0.899, 513),
    "sad": (0.894, 513),
    "tanned": (0.886, 512),
    "young": (0.905, 515),
    "curly_hair": (0.835, 499),
    "nicolas": (0.710, 461),
    "pixar": (0.667, 446),
    "neanderthal": (0.802, 490),
    "modigliani": (0.565, 403),
    "frida": (0.443, 321),
}
SMALL = LPIPSCurves(timesteps=(0, 25, 51, 76), pred_x0=(0.0, 0.3, 0.1, 0.5), x_t=(0.1, 1.3, 0.9, 1.4), num_images=2)


@pytest.fixture(scope="module")
def celeba():
    with (Path(__file__).parent / "data" / "celeba_curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = {name: tuple(float(row[name]) for row in rows) for name in ("pt", "xt")}
    return LPIPSCurves(tuple(int(row["t"]) for row in rows), columns["pt"], columns["xt"], num_images=100)


@pytest.mark.parametrize("attribute", PUBLISHED)
def test_the_paper_s_intervals_come_out_of_its_curves(celeba, attribute):
    cos_text, t_edit = PUBLISHED[attribute]
    assert choose_interval(celeba, cos_text) == (t_edit, 167, 1000)


def test_the_whole_threshold_is_reached_where_the_authors_say(celeba):
    assert choose_interval(celeba, 1.0).t_edit == 538


def test_a_curve_that_falls_again_is_crossed_at_the_first_time():
    assert find_first_crossing(SMALL.timesteps, SMALL.pred_x0, 0.2) == 25
    assert choose_interval(SMALL, 1.0, edit_threshold=0.2) == (25, 25, 1000)


def test_reaching_the_threshold_exactly_is_enough():
    assert find_first_crossing(SMALL.timesteps, SMALL.pred_x0, 0.3) == 25
    assert find_first_crossing(SMALL.timesteps, SMALL.pred_x0, 0.30001) == 76


def test_a_p_t_that_never_gets_far_enough_is_refused():
    with pytest.raises(ValueError, match=r"stays below 0.33 \* cos_text = 0.297 .*0.290.*interval\.edit_threshold"):
        choose_interval(replace(SMALL, pred_x0=(0.0, 0.1, 0.2, 0.29)), 0.9)


def test_an_x_t_that_never_gets_far_enough_is_not_boosted():
    assert choose_interval(replace(SMALL, x_t=(0.0, 0.1, 0.2, 1.19)), 0.9).t_boost == 0


def test_texts_that_have_nothing_in_common_are_edited_to_the_end():
    assert choose_interval(SMALL, -0.1).t_edit == 0


def test_zero_is_a_choice_and_not_unset():
    assert check_interval(0, 0) == (0, 0, 1000)
    assert check_interval(1000, 167, 600) == (1000, 167, 600)


@pytest.mark.parametrize(
    ("interval", "message"),
    [((-1, 0), "t_edit .*got -1"), ((500, 1001), "t_boost .*got 1001"), ((0, 0, 1001), "t_start .*got 1001")],
)
def test_timesteps_out_of_range_are_refused(interval, message):
    with pytest.raises(ValueError, match=rf"interval\.{message}"):
        check_interval(*interval)


def test_curves_survive_json():
    assert LPIPSCurves.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL
