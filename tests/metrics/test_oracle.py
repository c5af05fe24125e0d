import pytest
import torch

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED
from asyrp_lit.metrics.oracle import AttributeOracle

NAMES = list(LABELS)


@pytest.fixture
def oracle():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttributeOracle(width=8).eval()


@pytest.fixture
def images():
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def force_class(oracle, name, value):
    head = oracle.heads[name]
    with torch.no_grad():
        head.bias.zero_()
        head.bias[LABELS[name].index(value)] = 1e3


def test_logits_are_per_label_and_class(oracle, images):
    assert {name: tuple(x.shape) for name, x in oracle(images).items()} == {k: (5, len(v)) for k, v in LABELS.items()}


def test_labels_are_class_indices_in_the_order_of_labels(oracle, images):
    force_class(oracle, "expression", "surprised")
    force_class(oracle, "glasses", "sunglasses")
    labels = oracle.predict(images)
    assert labels.shape == (5, len(LABELS))
    assert labels.dtype == torch.int64
    assert labels[:, NAMES.index("expression")].tolist() == [2] * 5
    assert labels[:, NAMES.index("glasses")].tolist() == [2] * 5


@pytest.mark.parametrize(("length", "color"), [("bald", UNDEFINED), ("short", 3), ("long", 3)])
def test_only_a_bald_head_has_no_hair_colour(oracle, images, length, color):
    force_class(oracle, "hair_color", "red")
    force_class(oracle, "hair_length", length)
    assert oracle.predict(images)[:, NAMES.index("hair_color")].tolist() == [color] * 5


def test_other_image_sizes_are_accepted_and_labels_do_not_depend_on_the_batch(oracle, images):
    assert oracle.predict(torch.nn.functional.interpolate(images, (96, 96))).shape == (5, len(LABELS))
    assert torch.equal(oracle.predict(images)[2:3], oracle.predict(images[2:3]))


def test_prediction_builds_no_graph(oracle, images):
    assert not oracle.predict(images.requires_grad_()).requires_grad
