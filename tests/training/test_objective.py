"""The loss beyond the paper: what CLIP shall read as before."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from asyrp_lit.losses.clip import FrozenCLIP
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
