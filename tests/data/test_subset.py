import pytest
import torch

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.data.source import ImageSource
from asyrp_lit.data.subset import ImageSubset


@pytest.fixture(scope="module")
def whole():
    return PortraitSource("train", 4, size=16)


def test_it_is_a_source_of_the_chosen_images_in_the_order_given(whole):
    subset = ImageSubset(whole, [3, 1])
    assert isinstance(subset, ImageSource)
    assert (len(subset), subset.size, subset.name) == (2, 16, whole.name)
    assert subset.keys == [whole.keys[3], whole.keys[1]]
    assert torch.equal(subset[0].x_0, whole[3].x_0)


def test_the_fingerprint_is_that_of_the_choice(whole):
    prints = {ImageSubset(whole, chosen).fingerprint() for chosen in ([0, 1], [1, 0], [0, 2])}
    assert len(prints | {whole.fingerprint()}) == 4


@pytest.mark.parametrize("indices", [[], [0, 0], [4], [-1]])
def test_places_that_are_not_there_are_refused(whole, indices):
    with pytest.raises(ValueError, match="indices must be some of 0 to 3, each once"):
        ImageSubset(whole, indices)
