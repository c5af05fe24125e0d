import math

import pytest

from asyrp_lit.metrics.pareto import find_front


def test_what_another_beats_is_not_on_the_front():
    assert find_front([(1.0, 0.0), (0.5, 0.5), (0.4, 0.5), (0.0, 1.0)]) == [True, True, False, True]


def test_equal_points_are_on_it_together_and_what_cannot_be_compared_is_not():
    assert find_front([(1.0, 0.5), None, (1.0, 0.5), (math.nan, 2.0)]) == [True, False, True, False]


@pytest.mark.parametrize("points", [[(0.3,), (0.9,), (0.9,)], [(1.0, 2.0, 3.0)]])
def test_the_best_of_one_metric_and_a_lone_run_are_on_it(points):
    assert find_front(points) == [point == max(points) for point in points]


def test_the_order_of_the_points_does_not_matter():
    points = [(0.1, 0.9), (0.8, 0.8), (0.9, 0.1), (0.7, 0.7), (0.8, 0.8)]
    assert find_front(points[::-1]) == find_front(points)[::-1]
