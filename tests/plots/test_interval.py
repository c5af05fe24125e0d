from itertools import combinations, pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from asyrp_lit.hspace.interval import find_first_crossing
from asyrp_lit.hspace.published import load_published_curves
from asyrp_lit.plots.interval import Curve, Mark, draw_interval, spread_labels

CELEBA = load_published_curves("celeba")
CLOSE = {f"attribute_{k}": 0.9 - 0.001 * k for k in range(20)}
FEW = {"smiling": 0.899, "frida": 0.443, "never": 9.0, "Persian_cat2Persian_cat_closed_eyes": 0.898}


def make_curve(values):
    return Curve(CELEBA.timesteps, values, [0.8 * value for value in values], [1.2 * value for value in values])


def draw(cosines, t_boost=167, t_start=1000):
    crossing = (find_first_crossing(CELEBA.timesteps, CELEBA.pred_x0, 0.33 * cos) for cos in cosines.values())
    marks = [Mark(name, cos, 0.33 * cos, t) for (name, cos), t in zip(cosines.items(), crossing, strict=True)]
    figure = draw_interval(make_curve(CELEBA.pred_x0), make_curve(CELEBA.x_t), marks, 1.2, t_boost, t_start, "title")
    FigureCanvasAgg(figure).draw()
    return figure, marks


def visible(figure):
    artists = [*figure.texts, *(text for axes in figure.axes for text in (*axes.texts, axes.title, axes._left_title))]
    return [text for text in artists if text.get_text()]


@pytest.mark.parametrize(
    "cosines", [FEW, CLOSE, {"opposite": -0.2}], ids=["few", "many close ones", "a negative cosine"]
)
def test_no_two_words_overlap_and_none_leaves_the_figure(cosines):
    figure, _ = draw(cosines)
    boxes = {text: text.get_window_extent() for text in visible(figure)}
    overlaps = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert overlaps == []
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes.values())


def test_every_attribute_is_named_with_its_cosine_and_t_edit():
    figure, marks = draw(FEW)
    words = {text.get_text() for text in visible(figure)}
    assert {mark.name for mark in marks} | {"0.899", "0.443", "513", "321", "never"} <= words


@pytest.mark.parametrize(("t_edit", "t_boost"), [(0, 0), (None, None)], ids=["reached", "never reached"])
def test_the_one_timestep_of_two_steps_is_drawn_as_a_point(t_edit, t_boost):
    curve = Curve((0,), (0.3,), (0.2,), (0.4,))
    figure = draw_interval(curve, curve, [Mark("smiling", 0.9, 0.27, t_edit)], 0.25, t_boost, 1000, "title")
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes[:2]:
        assert axes.get_xlim() == (0, 1)
        assert any((list(line.get_xdata()), line.get_marker()) == ([0], "o") for line in axes.lines)


def test_a_t_boost_that_is_never_reached_and_a_t_start_are_said():
    words = {text.get_text() for text in visible(draw(FEW, t_boost=None, t_start=600)[0])}
    assert "x_t never reaches the boost threshold, t_boost = 0" in words
    assert "t_start = 600" in words
    assert "t_boost = 167" in {text.get_text() for text in visible(draw(FEW)[0])}


@pytest.mark.parametrize("places", [[0.0, 0.0, 0.0], [0.1, 0.15, 0.9, 0.95, 1.0], [0.5]])
def test_spread_labels_keep_their_order_and_distance(places):
    moved = spread_labels(places, 0.1, 1.0)
    assert all(upper - lower >= 0.1 - 1e-9 for lower, upper in pairwise(moved))
    assert max(moved) <= 1.0


def test_labels_with_room_stay_where_they_are():
    assert spread_labels([0.1, 0.5, 0.9], 0.2, 1.0) == [0.1, 0.5, 0.9]
