"""The loss beyond the paper: what CLIP shall read as before."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import directional_cosine, directional_loss
from asyrp_lit.losses.kept import KeptReadings
from asyrp_lit.training.objective import LossRecipe, MeasuredDirection


def make_images(seed=0):
    return torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


class Prompts(FrozenCLIP):
    """Two prompts with random embeddings."""

    logit_scale = 5.0

    def __init__(self):
        nn.Module.__init__(self)

    def encode_texts(self, texts):
        return torch.nn.functional.normalize(torch.randn(len(texts), 8, generator=torch.Generator().manual_seed(1)))


def test_the_kept_readings_are_of_p_t_before_and_after_and_weighted(tiny):
    kept = KeptReadings(Prompts(), [("a", "b")])
    module = tiny.make_module(recipe=LossRecipe(w_keep=0.5), kept=kept)
    edit, source = make_images()
    objective = module.loss(edit, source, module.loss.clip.encode_images(source.roll(1, -1)))
    assert_close(objective.keep, kept(module.loss.clip.encode_images(edit), module.loss.clip.encode_images(source)))
    assert objective.keep.min() > 0
    assert_close(objective.total, objective.clip + 3.0 * 0.9 * objective.l1 + 0.5 * objective.keep)


def test_of_a_slider_an_image_at_its_end_is_kept_and_its_attribute_too(tiny):
    """Each image at a strength of both signs: one of them moves it along or against dT, the other keeps it."""
    kept, contrast = KeptReadings(Prompts(), [("a", "b", "c")]), KeptReadings(Prompts(), [("a", "b")])
    recipe = LossRecipe(w_keep=0.5)
    plain, slider = (tiny.make_module(recipe=recipe, kept=kept, contrast=c).loss for c in (None, contrast))
    edit, source = make_images()
    embeddings = slider.clip.encode_images(source.roll(1, -1))
    has = contrast.read(embeddings).argmax(dim=-1) == 1
    moved = plain(edit, source, embeddings)
    own = contrast(slider.clip.encode_images(edit), slider.clip.encode_images(source))
    with pytest.raises(ValueError, match="needs the strengths"):
        slider(edit, source, embeddings)
    for sign in (1.0, -1.0):
        found = slider(edit, source, embeddings, strength=torch.full((3,), 0.7 * sign))
        stays = has if sign > 0 else ~has
        cosine = directional_cosine(slider.clip.encode_images(edit), embeddings, slider.text_direction)
        assert_close(found.clip, directional_loss(sign * cosine).where(~stays, 0.0))
        assert_close(found.keep, moved.keep + own.where(stays, 0.0))
        assert_close(found.total, found.clip + 3.0 * 0.9 * moved.l1 + 0.5 * found.keep)
    assert own.min() > 0
    assert 0 < has.sum() < 3


def test_a_slider_without_other_readings_keeps_that_of_its_attribute(tiny):
    contrast = KeptReadings(Prompts(), [("a", "b")])
    edit, source = make_images()
    for weight in (0.0, 0.5):
        loss = tiny.make_module(recipe=LossRecipe(w_keep=weight), contrast=contrast).loss
        embeddings = loss.clip.encode_images(source)
        keep = [loss(edit, source, embeddings, strength=torch.full((3,), sign)).keep for sign in (1.0, -1.0)]
        own = contrast(loss.clip.encode_images(edit), embeddings)
        assert_close(sum(keep), own if weight else torch.zeros(3))


def test_a_weight_of_zero_reads_nothing(tiny):
    module = tiny.make_module(recipe=LossRecipe(w_keep=0.0), kept=KeptReadings(Prompts(), [("a", "b")]))
    edit, source = make_images()
    assert module.loss.kept is None
    assert not module.loss(edit, source, module.loss.clip.encode_images(source)).keep.any()


def test_the_size_of_delta_h_is_relative_to_h_and_weighted(tiny):
    h = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    direction = MeasuredDirection(lambda h, temb, t: 0.5 * h)
    direction(h, torch.zeros(3, 8), torch.tensor([5, 5, 5]))
    assert_close(direction.size, torch.full((3,), 0.25))
    module = tiny.make_module(recipe=LossRecipe(w_delta_h=2.0))
    edit, source = make_images()
    embeddings = module.loss.clip.encode_images(source.roll(1, -1))
    plain = module.loss(edit, source, embeddings)
    sized = module.loss(edit, source, embeddings, direction.size)
    assert_close(sized.total, plain.total + 0.5)


def test_a_weight_on_its_size_keeps_delta_h_small(tiny, tmp_path):
    sizes = {}
    for weight in (0.0, 500.0):
        module = tiny.make_module(recipe=LossRecipe(w_delta_h=weight), optimizer=torch.optim.Adam, lr=0.01)
        trainer = tiny.make_trainer(max_epochs=5)
        trainer.fit(module, tiny.make_data(tmp_path))
        sizes[weight] = float(trainer.callback_metrics["train/delta_h"])
    assert 0 < sizes[500.0] < 0.5 * sizes[0.0]


@pytest.mark.parametrize("change", [{"w_keep": -1.0}, {"w_keep": float("nan")}])
def test_a_wrong_weight_is_named(change):
    with pytest.raises(ValueError, match=r"method\.loss\.w_keep must be 0 or more"):
        LossRecipe(**change)
