import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.pca import add_samples, find_components


def draw(groups, samples, features=30):
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3, 0.1, features, dtype=torch.float64)
    offsets = 5 * torch.randn(groups, 1, features, generator=generator, dtype=torch.float64)
    noise = torch.randn(groups, samples, features, generator=generator, dtype=torch.float64)
    return offsets + scales * noise


def add_all(samples, batch_size, rank=100):
    scatter = None
    for batch in samples.split(batch_size, dim=1):
        scatter = add_samples(scatter, batch, rank)
    return scatter


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 19])
def test_in_batches_it_is_the_svd_of_all_centred_samples(groups, batch_size):
    samples = draw(groups, 19)
    centred = (samples - samples.mean(dim=1, keepdim=True)).flatten(0, 1)
    _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    vectors, explained = find_components(add_all(samples, batch_size), 5)
    assert_close(vectors.norm(dim=1), lengths[:5] / (groups * 18) ** 0.5)
    assert_close((vectors @ directions[:5].T / vectors.norm(dim=1)).abs(), torch.eye(5, dtype=torch.float64))
    assert_close(explained, lengths[:5] ** 2 / (lengths**2).sum())


def test_a_component_is_as_long_as_one_standard_deviation_along_it():
    samples = draw(1, 40)
    vectors, _ = find_components(add_all(samples, 8), 3)
    scores = samples[0] @ (vectors / vectors.norm(dim=1, keepdim=True)).T
    assert_close(scores.std(dim=0), vectors.norm(dim=1))


def test_few_rows_are_enough_for_the_leading_components():
    samples = draw(1, 400)
    exact, approximate = (find_components(add_all(samples, 10, rank), 2) for rank in (100, 12))
    assert add_all(samples, 10, 12).rows.shape == (12, 30)
    assert (torch.cosine_similarity(exact.vectors, approximate.vectors) > 0.98).all()
    assert_close(exact.explained, approximate.explained, rtol=0.05, atol=0)


def test_the_sign_does_not_depend_on_the_batches():
    samples = draw(1, 19)
    assert_close(find_components(add_all(samples, 3), 4), find_components(add_all(samples, 19), 4))


@pytest.mark.parametrize(("num_components", "most"), [(0, 4), (5, 4)])
def test_components_that_the_samples_cannot_have_are_refused(num_components, most):
    with pytest.raises(ValueError, match=f"5 samples have 1 to {most} components, got num_components {num_components}"):
        find_components(add_all(draw(1, 5), 2), num_components)
