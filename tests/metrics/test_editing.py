import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torchmetrics.image import PeakSignalNoiseRatio

from asyrp_lit.metrics.editing import (
    DirectionalSimilarity,
    EditLPIPS,
    ImagePSNR,
    OraclePreservation,
    OracleScore,
    OracleSuccess,
    meets_target,
    preserved_share,
    target_probability,
)

# expression, hair_length, hair_color, skin, beard, glasses
SOURCE = torch.tensor([[3, 0, 2, 1, 0, 0], [3, 1, 0, 4, 0, 2], [1, 2, -1, 2, 1, 0]])


def random_images(n, seed):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_embeddings(n, seed):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


def edited(*changes):
    labels = SOURCE.clone()
    for row, column, value in changes:
        labels[row, column] = value
    return labels


CASES = [
    (lambda: DirectionalSimilarity(torch.ones(16)), (random_embeddings(5, 0), random_embeddings(5, 1))),
    (EditLPIPS, (torch.rand(5, generator=torch.Generator().manual_seed(0)),)),
    (OracleScore, (torch.rand(5, generator=torch.Generator().manual_seed(3)),)),
    (ImagePSNR, (random_images(5, 0), random_images(5, 1))),
    (lambda: OracleSuccess({"beard": "yes"}), (SOURCE[[0, 1, 2, 0, 2]],)),
    (lambda: OraclePreservation({"beard": "yes"}), (SOURCE[[0, 1, 2, 0, 2]], SOURCE[[0, 2, 2, 1, 2]])),
]


@pytest.mark.parametrize(("build", "data"), CASES)
def test_two_uneven_updates_and_two_merged_processes_equal_one_update(build, data):
    whole, parts, first, second = build(), build(), build(), build()
    whole.update(*data)
    for metric in (parts, first):
        metric.update(*(x[:2] for x in data))
    for metric in (parts, second):
        metric.update(*(x[2:] for x in data))
    first.merge_state(second)
    torch.testing.assert_close(parts.compute(), whole.compute())
    torch.testing.assert_close(first.compute(), whole.compute())
    assert whole.compute().shape == ()


@pytest.mark.parametrize(("build", "data"), CASES)
def test_metrics_hold_no_parameters_and_reset(build, data):
    metric = build()
    metric.update(*data)
    assert not list(metric.parameters())
    assert not metric.state_dict()
    metric.reset()
    assert metric.total == 0
    assert metric.count == 0


def test_directional_similarity_by_hand():
    text = torch.tensor([[0.0, 5.0]])
    source = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    edit = torch.tensor([[0.0, 3.0], [0.0, -1.0], [7.0, 0.0]])
    metric = DirectionalSimilarity(text)
    for row, expected in enumerate((0.5**0.5, -(0.5**0.5), 0.0)):
        assert metric(source[row : row + 1], edit[row : row + 1]).item() == pytest.approx(expected)
    assert metric.compute().item() == pytest.approx(0, abs=1e-7)


def test_directional_similarity_agrees_with_torchmetrics():
    source, edit, text = random_embeddings(6, 0), random_embeddings(6, 1), random_embeddings(1, 2)
    reference = torchmetrics.CosineSimilarity(reduction="mean")
    expected = reference(F.normalize(edit) - F.normalize(source), text.expand(6, -1))
    torch.testing.assert_close(DirectionalSimilarity(text[0])(source, edit), expected)


def test_psnr_by_hand_and_infinite_for_equal_images():
    x = torch.zeros(2, 3, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 0.02)])
    assert ImagePSNR()(x, y).item() == pytest.approx((20 + 40) / 2)
    assert ImagePSNR()(x, x).item() == float("inf")


def test_psnr_agrees_with_torchmetrics():
    x, y = random_images(4, 0), random_images(4, 1)
    reference = PeakSignalNoiseRatio(data_range=2.0, dim=(1, 2, 3), reduction="elementwise_mean")
    torch.testing.assert_close(ImagePSNR()(x, y), reference(x, y))


def test_edit_lpips_is_the_mean_over_images():
    metric = EditLPIPS()
    metric.update(torch.tensor([0.1, 0.2]))
    metric.update(torch.tensor([0.6]))
    assert metric.compute().item() == pytest.approx(0.3)


def test_target_is_met_by_any_of_its_classes_and_by_all_of_its_labels():
    assert meets_target(SOURCE, {"beard": "yes"}).tolist() == [False, False, True]
    assert meets_target(SOURCE, {"glasses": ["glasses", "sunglasses"]}).tolist() == [False, True, False]
    assert meets_target(SOURCE, {"beard": "no", "hair_length": "long"}).tolist() == [False, True, False]


def test_an_undefined_label_never_meets_a_target():
    assert meets_target(SOURCE, {"hair_color": ["black", "brown", "blond", "red", "grey"]}).tolist() == [1, 1, 0]


def logits_of(**probabilities):
    return {name: torch.tensor(values).log() for name, values in probabilities.items()}


def test_target_probability_adds_classes_and_multiplies_labels():
    logits = logits_of(glasses=[[0.5, 0.2, 0.3]], beard=[[0.6, 0.4]])
    assert target_probability(logits, {"glasses": ["glasses", "sunglasses"]}).item() == pytest.approx(0.5)
    assert target_probability(logits, {"glasses": "no", "beard": "yes"}).item() == pytest.approx(0.2)


def test_a_hair_colour_is_as_likely_as_there_is_hair():
    logits = logits_of(hair_color=[[0.1, 0.1, 0.6, 0.1, 0.1]], hair_length=[[0.3, 0.2, 0.5]])
    assert target_probability(logits, {"hair_color": "blond"}).item() == pytest.approx(0.3)
    assert target_probability(logits, {"hair_length": "bald"}).item() == pytest.approx(0.5)


def test_preserved_share_counts_the_other_labels_that_the_source_has():
    after = edited((0, 4, 1), (0, 3, 0), (2, 2, 0), (2, 0, 0))
    shares = preserved_share(SOURCE, after, {"beard": "yes"})
    torch.testing.assert_close(shares, torch.tensor([4 / 5, 1.0, 3 / 4]))


def test_hair_colour_is_left_out_when_hair_length_is_the_target():
    after = edited((0, 1, 2), (0, 2, -1), (1, 1, 2), (1, 2, -1), (1, 3, 0))
    shares = preserved_share(SOURCE, after, {"hair_length": "bald"})
    torch.testing.assert_close(shares, torch.tensor([1.0, 3 / 4, 1.0]))


def test_a_label_that_the_edit_undefines_counts_as_changed():
    after = edited((0, 1, 2), (0, 2, -1))
    assert preserved_share(SOURCE, after, {"beard": "yes"})[0].item() == pytest.approx(3 / 5)


def test_images_without_anything_to_compare_are_left_out_of_preservation():
    source = torch.tensor([[3, 0, 2, 1, 0, 0], [-1, -1, -1, -1, 1, -1]])
    metric = OraclePreservation({"beard": "yes"})
    assert metric(source, edited((0, 3, 0))[[0, 0]]).item() == pytest.approx(4 / 5)


@pytest.mark.parametrize("metric", [OracleSuccess, OraclePreservation])
@pytest.mark.parametrize(
    ("target", "message"),
    [({}, "target is empty"), ({"hat": "yes"}, "label 'hat' does not exist"), ({"beard": "big"}, "has no class 'big'")],
)
def test_wrong_targets_are_named(metric, target, message):
    with pytest.raises(ValueError, match=message):
        metric(target)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="one non-zero vector"):
        DirectionalSimilarity(torch.zeros(4))
    # A TypeError where jaxtyping checks shapes before the metric does.
    with pytest.raises((ValueError, TypeError), match="edit_embeddings"):
        DirectionalSimilarity(torch.ones(4)).update(torch.ones(2, 4), torch.ones(1, 4))
