"""Portraits as an image source."""

import pytest
import torch

from asyrp_lit.data.avatars.dataset import draw_pixels
from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.data.portraits import PortraitSource


def test_items_are_the_drawn_portraits_with_their_labels():
    source = PortraitSource("val", 3, size=16)
    item = source[2]
    assert item.x_0.shape == (3, 16, 16)
    assert torch.equal(
        ((item.x_0 + 1) * 127.5).round().byte().permute(1, 2, 0), torch.tensor(draw_pixels(2, "val", 16))
    )
    assert torch.equal(item.labels, source.labels[2])
    assert (source.name, source.keys) == ("avatars-val", ["val-000000", "val-000001", "val-000002"])
    with pytest.raises(IndexError):
        source[3]


def test_a_condition_keeps_only_fitting_portraits():
    source = PortraitSource("train", 20, where={"expression": "serious", "hair_length": ["short", "long"]})
    names = list(LABELS)
    assert {LABELS["expression"][k] for k in source.labels[:, names.index("expression")]} == {"serious"}
    assert "bald" not in {LABELS["hair_length"][k] for k in source.labels[:, names.index("hair_length")]}
    assert source.keys[-1] == f"train-{source.indices[-1]:06d}"


def test_the_fingerprint_follows_split_number_size_and_condition():
    variants = [("train", 2, 16, None), ("val", 2, 16, None), ("train", 3, 16, None), ("train", 2, 8, None)]
    variants.append(("train", 2, 16, {"beard": "yes"}))
    digests = {PortraitSource(*arguments).fingerprint() for arguments in variants}
    assert len(digests) == len(variants)
    assert PortraitSource(*variants[0]).fingerprint() in digests


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"hair_length": []}, r"where.hair_length must be a class name or a list of some, not \[\]"),
        ({"beard": False}, "put quotes around no and yes"),
        ({"beard": "maybe"}, "label 'beard' has no class 'maybe'; choose from no, yes"),
        ({"mood": "good"}, "label 'mood' does not exist; choose from expression"),
        ({"expression": "sad", "mood": "good"}, "label 'mood' does not exist"),
    ],
)
def test_a_condition_that_no_portrait_meets_raises(where, message):
    with pytest.raises(ValueError, match=message):
        PortraitSource("train", 1, where=where)


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="num_images=0"):
        PortraitSource("train", 0)
