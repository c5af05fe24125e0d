"""t_edit and t_boost, on curves made up here; those of the authors are in ``test_published.py``."""

from dataclasses import replace

import pytest

from asyrp_lit.hspace.interval import (
    LPIPSCurves,
    check_interval,
    choose_interval,
    find_first_crossing,
    propose_t_boosts,
    propose_t_edits,
)
from asyrp_lit.hspace.published import load_published_curves

CELEBA = load_published_curves("celeba")

SMALL = LPIPSCurves(timesteps=(0, 25, 51, 76), pred_x0=(0.0, 0.3, 0.1, 0.5), x_t=(0.1, 1.3, 0.9, 1.4), num_images=2)


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
    with pytest.raises(ValueError, match=rf"^{message}"):
        check_interval(*interval)


def test_a_sweep_tries_the_chosen_t_edit_and_only_what_is_edited():
    found = propose_t_edits(CELEBA, 0.33 * 0.9)
    assert choose_interval(CELEBA, 0.9).t_edit in found
    assert list(found) == sorted(set(found))
    assert propose_t_edits(CELEBA, 0.33 * 0.9, t_start=400) == tuple(t for t in found if t <= 400)


def test_a_sweep_tries_the_chosen_t_boost_and_none():
    found = propose_t_boosts(CELEBA)
    assert found[0] == 0
    assert found[-1] == choose_interval(CELEBA, 0.9).t_boost


def test_a_sweep_boosts_small_images_that_never_reach_the_threshold_too():
    found = propose_t_boosts(replace(SMALL, x_t=(0.0, 0.3, 0.7, 0.8)))
    assert found == (0, 25, 51)
