import math

import pytest
import torch
from scipy.stats import spearmanr

from asyrp_lit.metrics.monotone import measure_monotony

STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def test_scores_that_rise_at_every_step_have_correlation_1_in_any_order_of_strengths():
    scores = torch.tensor([[0.1, 0.2], [0.2, 0.3], [0.5, 0.6], [0.7, 0.8], [0.9, 0.95]])
    order = [3, 0, 4, 1, 2]
    found = measure_monotony([STRENGTHS[i] for i in order], scores[order])
    assert (found.of_each, found.of_mean, found.largest_fall) == (pytest.approx(1), pytest.approx(1), 0)
    assert 0.9 < found.of_images < 1  # scores of two images never tie where their strengths do


def test_it_is_spearmans_of_scipy_with_ties():
    scores = (torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) * 6).round() / 6
    found = measure_monotony(STRENGTHS, scores)
    spread = torch.tensor(STRENGTHS).repeat_interleave(7)
    assert found.of_images == pytest.approx(spearmanr(spread, scores.flatten()).statistic)
    assert found.of_mean == pytest.approx(spearmanr(STRENGTHS, scores.mean(1)).statistic)
    each = [spearmanr(STRENGTHS, own).statistic for own in scores.T]
    assert found.of_each == pytest.approx(sum(each) / 7)


def test_the_fall_is_from_the_highest_mean_to_the_lowest_after_it_in_order_of_strength():
    scores = torch.tensor([[0.2, 0.0], [0.9, 0.7], [0.5, 0.3], [0.7, 0.7], [0.4, 0.2]])
    order = [4, 1, 0, 3, 2]
    found = measure_monotony([STRENGTHS[i] for i in order], scores[order])
    assert found.largest_fall == pytest.approx(0.5)


def test_an_image_that_never_moves_says_nothing():
    still = torch.full((5, 1), 0.3)
    *correlations, fall = measure_monotony(STRENGTHS, still)
    assert all(math.isnan(value) for value in correlations)
    assert fall == 0
    falling = torch.linspace(1, 0, 5)[:, None]
    assert measure_monotony(STRENGTHS, torch.cat([still, falling], dim=1)).of_each == pytest.approx(-1)


@pytest.mark.parametrize(("strengths", "rows"), [((0.0, 1.0), 2), ((0.0, 1.0, 1.0), 3), ((0.0, 1.0, 2.0), 2)])
def test_too_few_strengths_or_rows_are_named(strengths, rows):
    with pytest.raises(ValueError, match="needs three different strengths or more and a row of scores for each"):
        measure_monotony(strengths, torch.rand(rows, 4))
