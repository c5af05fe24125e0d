import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.labels import classify, fit_boundary, scale_to_classes, subtract_means


@pytest.fixture
def classes():
    """Forty samples of two classes that differ along the first of twelve features only."""
    features = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    positive = torch.arange(40) % 2 == 0
    features[:, 0] = 0.1 * features[:, 0] + 10 + 3 * positive
    return features, positive


def test_the_difference_of_means_is_exact():
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0], [0.0, 1.0], [0.0, 3.0], [0.0, 5.0]])
    difference = subtract_means(features, torch.tensor([True, True, False, False, False]))
    assert torch.equal(difference, torch.tensor([2.0, 2.0]))


def test_the_boundary_lies_across_what_tells_the_classes_apart(classes):
    boundary = fit_boundary(*classes, penalty=1.0)
    assert boundary.normal.norm() == pytest.approx(1)
    assert boundary.normal[0] > 0.95
    assert torch.equal(classify(classes[0], boundary), classes[1])


def test_the_scale_and_offset_of_the_samples_do_not_turn_the_boundary(classes):
    features, positive = classes
    plain, moved = fit_boundary(features, positive, 1.0), fit_boundary(100 * features - 7, positive, 1.0)
    assert_close(plain.normal, moved.normal, atol=1e-4, rtol=0)
    assert torch.equal(classify(100 * features - 7, moved), positive)


def test_strength_one_goes_from_class_mean_to_class_mean_along_the_normal(classes):
    difference = subtract_means(*classes)
    normal = fit_boundary(*classes, penalty=1.0).normal
    delta = scale_to_classes(normal, difference)
    assert_close((delta - difference) @ normal, torch.tensor(0.0), atol=1e-5, rtol=0)
