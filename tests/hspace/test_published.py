"""The curves that the authors of Asyrp published; the numbers here were found on the full table of their release."""

import pytest

from asyrp_lit.hspace.interval import choose_interval, find_first_crossing
from asyrp_lit.hspace.published import PUBLISHED_CURVES, load_published_curves

#: Where P_t reaches 0.33, and where x_t reaches 1.2.
CROSSINGS = {
    "celeba": (538, 167),
    "church": (396, 293),
    "bedroom": (384, 221),
    "afhq": (482, 167),
    "metface": (396, 180),
}
#: Cosine of the two bare prompts under ViT-B/16 -> t_edit on celeba.
ATTRIBUTES = {
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
#: cos_text -> t_edit of celeba, church, bedroom, afhq, metface.
THRESHOLDS = {
    0.9: (514, 367, 367, 439, 313),
    0.8: (489, 335, 344, 383, 216),
    0.7: (459, 300, 321, 310, 141),
    0.6: (421, 263, 294, 238, 95),
    0.5: (366, 223, 260, 174, 67),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_the_whole_thresholds_are_reached_where_the_authors_say(name):
    curves = load_published_curves(name)
    t_edit, t_boost = CROSSINGS[name]
    assert find_first_crossing(curves.timesteps, curves.pred_x0, 0.33) == t_edit
    assert choose_interval(curves, 1.0) == (t_edit, t_boost, 1000)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_the_paper_s_intervals_come_out_of_its_curves(attribute):
    cos_text, t_edit = ATTRIBUTES[attribute]
    assert choose_interval(load_published_curves("celeba"), cos_text) == (t_edit, 167, 1000)


@pytest.mark.parametrize("cos_text", THRESHOLDS)
def test_a_threshold_gives_its_t_edit_on_all_data_sets(cos_text):
    found = tuple(choose_interval(load_published_curves(name), cos_text).t_edit for name in CROSSINGS)
    assert found == THRESHOLDS[cos_text]


@pytest.mark.parametrize("name", PUBLISHED_CURVES)
def test_every_timestep_but_998_is_there(name):
    curves = load_published_curves(name)
    assert curves.timesteps == (*range(1, 998), 999)
    assert len(curves.pred_x0) == len(curves.x_t) == 998


def test_the_numbers_are_the_published_ones():
    curves = load_published_curves("celeba")
    assert (curves.pred_x0[0], curves.x_t[1], curves.pred_x0[-1]) == (0.00848, 0.00957, 1.14451)
    assert load_published_curves("metface").x_t[-1] == 1.38212


def test_curves_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="curves must be one of celeba, church, bedroom, afhq, metface, got 'ffhq'"):
        load_published_curves("ffhq")
