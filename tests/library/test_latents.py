"""Latents know the model that they are for."""

import copy
import pickle

import pytest
import torch

import asyrp_lit


@pytest.fixture(name="other")
def make_other(unet):
    model = asyrp_lit.load_model(unet)
    model.unet.conv_out.bias.data.add_(0.01)
    return model


def test_latents_of_other_weights_are_refused(model, other, files, photos):
    latents = asyrp_lit.invert(other, photos, num_steps=4)
    for edit in (
        lambda: asyrp_lit.edit(model, latents, files["smiling"]),
        lambda: asyrp_lit.reconstruct(model, latents),
    ):
        with pytest.raises(ValueError, match=r"these latents were inverted by .*: invert the images with the model"):
            edit()


def test_latents_of_another_size_are_refused(model, files):
    latents = asyrp_lit.Latents(torch.randn(1, 3, 16, 16), 4)
    with pytest.raises(ValueError, match=r"these latents are of 16 px, .* makes images of 32"):
        asyrp_lit.edit(model, latents, files["smiling"])


def test_latents_fit_another_copy_of_their_model_and_come_back_from_a_file(model, unet, files, photos):
    latents = asyrp_lit.invert(asyrp_lit.load_model(unet), photos[:1], num_steps=4)
    edits = asyrp_lit.edit(model, latents, files["boosted"])
    for again in (pickle.loads(pickle.dumps(latents)), copy.deepcopy(latents)):
        assert again.model is None
        assert torch.equal(asyrp_lit.edit(model, again, files["boosted"]), edits)
    assert len(pickle.dumps(latents)) < 50_000  # no network is in it


def test_drawn_latents_fit_any_model_of_their_size(model, other):
    latents = asyrp_lit.draw_latents(other, 2, num_steps=4)
    assert len(asyrp_lit.reconstruct(model, latents)) == 2
