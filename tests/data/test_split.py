"""Seeded splits: disjoint, whole, stable."""

import pytest

from asyrp_lit.data.split import SeededPart, count_val, take_part

KEYS = [f"{number}.png" for number in range(100)]


def split(keys, val_images=0.1, seed=0):
    return [take_part(keys, SeededPart(name, val_images, seed)) for name in ("train", "val")]


def test_train_and_val_are_disjoint_whole_and_in_order():
    train, val = split(KEYS)
    assert len(val) == 10
    assert sorted(train + val) == sorted(KEYS)
    assert [train, val] == [[key for key in KEYS if key in part] for part in (train, val)]


def test_the_order_of_the_keys_does_not_decide():
    assert [sorted(part) for part in split(KEYS)] == [sorted(part) for part in split(KEYS[::-1])]


def test_the_seed_decides():
    assert split(KEYS)[1] == split(KEYS)[1] != split(KEYS, seed=1)[1]


def test_a_new_image_moves_at_most_one_other():
    before, after = (set(split(keys, 10)[1]) for keys in (KEYS, [*KEYS, "new.png"]))
    assert len(before - after) <= 1


@pytest.mark.parametrize(
    ("num_images", "val_images", "expected"), [(2, 0.1, 1), (2, 0.9, 1), (100, 0.1, 10), (100, 7, 7), (1, 0.5, 1)]
)
def test_shares_and_counts_leave_one_on_both_sides(num_images, val_images, expected):
    assert count_val(num_images, val_images) == expected


def test_a_single_image_is_in_both_parts():
    assert split(["me.png"]) == [["me.png"], ["me.png"]]


@pytest.mark.parametrize("val_images", [0, 1.0, -0.1, True])
def test_an_impossible_share_is_named(val_images):
    with pytest.raises(ValueError, match="must be a count, 1 or more, or a share, above 0 and below 1"):
        count_val(10, val_images)


def test_a_count_that_leaves_nothing_to_train_on_is_named():
    with pytest.raises(ValueError, match="val_images=100 leaves none of the 100 images to train on"):
        split(KEYS, 100)
    with pytest.raises(ValueError, match="split must be train or val, got 'test'"):
        take_part(KEYS, SeededPart("test", 1, 0))
