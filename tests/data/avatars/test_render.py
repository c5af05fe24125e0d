"""Drawing: repeatable, and a changed label changes only its own part of the picture."""

import numpy as np
import pytest

from asyrp_lit.data.avatars.render import dicebear_options, render_portrait
from asyrp_lit.data.avatars.traits import LABELS, sample_traits

PLAIN = {"expression": "serious", "hair_length": "short", "hair_color": "black", "beard": "no", "glasses": "no"}


def draw(labels: dict[str, str]) -> np.ndarray:
    return np.asarray(render_portrait(sample_traits("train", 3).with_labels({**PLAIN, **labels}), 64)).astype(int)


def test_equal_traits_give_equal_pixels():
    assert np.array_equal(draw({}), draw({}))
    assert draw({}).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ({"expression": "smiling"}, (12, 44)),  # eyebrows to mouth
        ({"beard": "yes"}, (20, 60)),
        ({"glasses": "sunglasses"}, (16, 36)),
    ],
)
def test_a_true_pair_differs_only_where_it_should(labels, rows):
    changed = np.abs(draw(labels) - draw({})).max(axis=(1, 2)) > 8
    assert changed.any()
    assert not changed[: rows[0]].any()
    assert not changed[rows[1] :].any()


@pytest.mark.parametrize("name", LABELS)
def test_every_class_looks_different(name):
    drawings = [draw({name: value}).tobytes() for value in LABELS[name]]
    assert len(set(drawings)) == len(drawings)


def test_nothing_is_left_to_dicebears_own_random_numbers():
    options = [dicebear_options(sample_traits("val", index), 64) for index in range(200)]
    assert {value for entry in options for key, value in entry.items() if key.endswith("Probability")} == {0, 100}
    assert all(len(value) == 1 for entry in options for value in entry.values() if isinstance(value, list))
