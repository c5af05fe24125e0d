"""Traits are a pure function of split and index."""

import hashlib
import json

import pytest

from asyrp_lit.data.avatars.render import dicebear_options
from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, matches, pick_weighted, sample_traits


def test_traits_never_change():
    # Written when the data set was made: another value means that the shipped networks saw another data set.
    traits = [
        sample_traits(split, index).to_dict() for split in ("train", "val", "test") for index in (0, 1, 99, 12345)
    ]
    assert (
        hashlib.sha256(json.dumps(traits).encode()).hexdigest()
        == "ba87ffc3e49ccc215b219cdf892dc1c13701e5f8e9bd9041e52cdf02035dc50b"
    )


def test_splits_do_not_share_portraits():
    def drawn(split):
        return {json.dumps(dicebear_options(sample_traits(split, index), 64)) for index in range(1000)}

    train, val, test = drawn("train"), drawn("val"), drawn("test")
    assert len(train | val | test) == len(train) + len(val) + len(test)


def test_every_class_occurs():
    sample = [sample_traits("train", index) for index in range(500)]
    for name, classes in LABELS.items():
        assert {getattr(traits, name) for traits in sample} == set(classes)


def test_the_hair_colour_of_a_bald_head_is_undefined():
    traits = sample_traits("train", 0)
    assert traits.with_labels({"hair_length": "bald"}).class_indices()["hair_color"] == UNDEFINED
    assert traits.with_labels({"hair_length": "short"}).class_indices()["hair_color"] != UNDEFINED


def test_changing_a_label_changes_no_other_trait():
    before = sample_traits("train", 7)
    after = before.with_labels({"expression": "sad", "beard": "yes"})
    changed = {name for name, value in after.to_dict().items() if value != before.to_dict()[name]}
    assert changed <= {"expression", "beard"}
    assert (after.expression, after.beard) == ("sad", "yes")


def test_a_condition_takes_one_class_or_several():
    traits = sample_traits("train", 0).with_labels({"hair_length": "short"})
    assert matches(traits, {"hair_length": "short"})
    assert matches(traits, {"hair_length": ["bald", "short"]})
    assert not matches(traits, {"hair_length": "long"})
    assert matches(traits, {})


def test_unknown_labels_and_classes_are_named():
    with pytest.raises(ValueError, match="label 'mood' does not exist; choose from expression"):
        sample_traits("train", 0).with_labels({"mood": "good"})
    with pytest.raises(ValueError, match="no class 'angry'; choose from smiling"):
        matches(sample_traits("train", 0), {"expression": "angry"})


def test_weights_are_met_at_their_borders():
    weights = {"a": 0.25, "b": 0.75}
    assert [pick_weighted(weights, draw) for draw in (0.0, 0.2499, 0.25, 0.9999)] == ["a", "a", "b", "b"]
