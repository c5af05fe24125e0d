import numpy as np
import pytest
import torch

from asyrp_lit.editing.strengths import (
    check_distinct,
    combine_strengths,
    make_loop,
    name_combination,
    spread_strengths,
)


@pytest.mark.parametrize(
    ("strength", "count", "expected"),
    [
        (1, 1, [(1.0,)]),
        ([-1, 0.5], 1, [(-1.0, 0.5)]),
        (0.7, 2, [(0.7,), (0.7,)]),
        ([1, 0.7], 2, [(1.0,), (0.7,)]),
        ([[0, 1], 2], 2, [(0.0, 1.0), (2.0,)]),
        (np.float32(1), 1, [(1.0,)]),
        (torch.tensor(1), 2, [(1.0,), (1.0,)]),
        (np.linspace(-1, 1, 3), 1, [(-1.0, 0.0, 1.0)]),
        (torch.tensor([1.0, 0.5]), 2, [(1.0,), (0.5,)]),
        ([np.array([0, 1]), np.float64(2)], 2, [(0.0, 1.0), (2.0,)]),
    ],
)
def test_every_direction_gets_its_strengths(strength, count, expected):
    assert spread_strengths(strength, count) == expected


@pytest.mark.parametrize(
    "strength",
    [float("nan"), float("inf"), "1", True, None, [1, float("nan")], [[1]], np.array([np.nan]), np.array([True])],
)
def test_what_is_no_finite_number_is_refused(strength):
    with pytest.raises(ValueError, match="strength must be finite numbers, got"):
        spread_strengths(strength, 1)


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="names no number"):
        spread_strengths([], 1)
    with pytest.raises(ValueError, match=r"one entry for each of the 2 directions .* got \[1, 2, 3\]"):
        spread_strengths([1, 2, 3], 2)


def test_strengths_that_would_share_a_name_are_refused():
    check_distinct([0.1234567, 0.5, 0.5, 1.0])
    with pytest.raises(ValueError, match=r"strengths 0.1234567 and 0.1234568 would be one in names"):
        check_distinct([0.1234567, 0.5, 0.1234568])


def test_combinations_change_the_last_direction_fastest():
    assert combine_strengths([(0.0, 1.0), (5.0, 6.0)]) == [(0, 5), (0, 6), (1, 5), (1, 6)]


@pytest.mark.parametrize("num_frames", [3, 4, 24, 25])
def test_a_loop_goes_up_and_down_and_repeats_without_a_jump(num_frames):
    loop = make_loop([(-1.0, 0.5, 2.0), (1.0,)], num_frames)
    first = [strengths[0] for strengths in loop]
    steps = [abs(b - a) for a, b in zip(first, first[1:] + first[:1], strict=True)]
    assert (min(first), max(first), loop[0]) == (-1, 2, (-1.0, 0.0))
    assert max(steps) - min(steps) < 1e-9
    assert abs(len(loop) - num_frames) <= 1


def test_a_loop_needs_three_frames():
    with pytest.raises(ValueError, match="3 or more, got 2"):
        make_loop([(1.0,)], 2)


def test_columns_are_named_after_strengths():
    assert name_combination(["glasses"], (0.5,)) == "strength 0.5"
    assert name_combination(["smiling", "glasses"], (1.0, -0.7)) == "smiling 1, glasses -0.7"
