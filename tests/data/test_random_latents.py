"""Random latents: standard normal, each decided by seed, split and number."""

import pytest
import torch

from asyrp_lit.data.random_latents import RandomLatents


def test_latents_are_standard_normal():
    x_T = torch.stack([item.x_T for item in RandomLatents("train", 64, 16)])
    assert abs(float(x_T.mean())) < 0.02
    assert float(x_T.std()) == pytest.approx(1, abs=0.02)
    assert x_T.dtype == torch.float32


def test_a_latent_does_not_depend_on_how_many_there_are_nor_on_the_order():
    few, many = RandomLatents("train", 3, 8), RandomLatents("train", 9, 8)
    torch.manual_seed(7)
    assert torch.equal(many[2].x_T, few[2].x_T)


def test_seeds_splits_and_numbers_have_latents_and_fingerprints_of_their_own():
    sources = [RandomLatents("train", 2, 8), RandomLatents("val", 2, 8), RandomLatents("train", 2, 8, seed=1)]
    firsts = [source[0].x_T for source in sources] + [sources[0][1].x_T]
    assert len({float(x_T[0, 0, 0]) for x_T in firsts}) == 4
    named = {(source.name, source.fingerprint()) for source in (*sources, RandomLatents("train", 3, 8))}
    assert named == {
        ("random-train", "normal-seed0-n2"),
        ("random-val", "normal-seed0-n2"),
        ("random-train", "normal-seed1-n2"),
        ("random-train", "normal-seed0-n3"),
    }


@pytest.mark.parametrize(("argument", "value"), [("num_images", 0), ("size", 0), ("seed", -1)])
def test_a_wrong_number_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"{argument} of random latents must be a whole number, \d or more, got"):
        RandomLatents(**{"split": "train", "num_images": 1, "size": 8, argument: value})
