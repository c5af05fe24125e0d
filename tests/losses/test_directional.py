import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from asyrp_lit.losses.clip import FrozenCLIP, ImageNormalisation, build_avatars_clip
from asyrp_lit.losses.directional import (
    compute_cos_text,
    compute_image_direction,
    compute_text_direction,
    directional_cosine,
    directional_loss,
    reconstruction_loss,
)


@pytest.fixture(scope="module")
def clip():
    """Of the embedded architecture, with random weights."""
    torch.manual_seed(0)
    return FrozenCLIP(*build_avatars_clip(), "random")


class Table(nn.Module):
    """A text tower that looks whole texts up, by their number of tokens."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def encode_text(self, tokens):
        return self.rows[(tokens != 0).sum(dim=1) - 3]


def make_table_clip(*rows):
    tokenizer = build_avatars_clip()[1]
    return FrozenCLIP(Table(rows), tokenizer, ImageNormalisation(8, (0.5,), (0.5,)), "table")


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 0.0), (0.0, math.log(2)), (-0.5, math.log(4))])
def test_the_log_form_by_hand(cosine, expected):
    assert directional_loss(torch.tensor([cosine]), "log").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 0.0), (0.0, 1.0), (-0.5, 1.5), (-1.0, 2.0)])
def test_the_cosine_form_by_hand(cosine, expected):
    assert directional_loss(torch.tensor([cosine]), "cosine").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("cosine", "expected"), [(1.0, 0.0), (0.5, 0.25), (0.0, 1.0), (-1.0, 4.0)])
def test_the_squared_form_by_hand(cosine, expected):
    assert_close(directional_loss(torch.tensor([cosine]), "squared"), torch.tensor([expected]))


def test_the_squared_form_lets_go_of_an_edit_that_succeeds():
    cosine = torch.tensor([0.9, 0.1], requires_grad=True)
    directional_loss(cosine, "squared").sum().backward()
    assert cosine.grad[1] / cosine.grad[0] == pytest.approx(9)


def test_the_log_form_stays_finite_at_the_opposite_direction():
    loss = directional_loss(torch.tensor([-1.0]), "log")
    assert 10 < loss.item() < 20


def test_a_cosine_is_that_of_two_differences():
    source = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    edit = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.6, 0.3]])
    cosine = directional_cosine(edit, source, torch.tensor([[0.0, 1.0]]))
    assert_close(cosine, torch.tensor([math.sqrt(0.5), 1.0, -1.0]))


def test_image_directions_have_unit_length_per_sample():
    edit, source = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    assert_close(compute_image_direction(edit, source).norm(dim=1), torch.ones(5))


def test_a_sample_s_loss_has_a_gradient_to_its_own_image_only(clip):
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    source = clip.encode_images(torch.zeros(3, 3, 64, 64))
    text_direction = compute_text_direction(clip, "face", "smiling face", ("{}",))
    loss = directional_loss(directional_cosine(clip.encode_images(x), source, text_direction))
    assert loss.shape == (3,)
    (gradient,) = torch.autograd.grad(loss[1], x)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).abs().amax(dim=1).gt(0).tolist() == [False, True, False]


def test_an_edit_that_changes_nothing_gives_no_nan(clip):
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    text_direction = compute_text_direction(clip, "face", "smiling face", ("{}",))
    cosine = directional_cosine(clip.encode_images(x), clip.encode_images(x).detach(), text_direction)
    directional_loss(cosine).sum().backward()
    assert x.grad.isfinite().all()


def test_the_text_direction_has_unit_length(clip):
    text_direction = compute_text_direction(clip, "face", "smiling face", ("a photo of a {}.", "a drawing of a {}."))
    assert text_direction.shape == (1, 128)
    assert text_direction.norm().item() == pytest.approx(1, abs=1e-6)
    assert not text_direction.requires_grad


def test_the_text_direction_is_the_mean_over_templates_of_unit_embeddings():
    """One and two words, each bare and after one more word."""
    clip = make_table_clip([2.0, 0.0], [0.0, 3.0], [-1.0, 0.0])
    text_direction = compute_text_direction(clip, "a", "a a", ("{}", "a {}"))
    expected = (torch.tensor([[-1.0, 1.0]]) + torch.tensor([[-1.0, -1.0]])) / 2
    assert_close(text_direction, expected / expected.norm())


def test_turning_the_texts_around_turns_the_direction(clip):
    forth, back = (
        compute_text_direction(clip, *texts, ("{}",)) for texts in (("face", "old face"), ("old face", "face"))
    )
    assert_close(forth, -back)


def test_texts_that_embed_alike_are_refused(clip):
    with pytest.raises(ValueError, match="CLIP random sees no difference between 'face' and 'face'; change a text"):
        compute_text_direction(clip, "face", "face", ("{}",))


def test_cos_text_is_that_of_the_bare_prompts():
    clip = make_table_clip([2.0, 0.0], [3.0, 4.0])
    assert compute_cos_text(clip, "a", "a a") == pytest.approx(0.6)


def test_a_text_has_cosine_one_with_itself_and_less_with_another(clip):
    assert compute_cos_text(clip, "face", "face") == pytest.approx(1, abs=1e-5)
    assert -1 < compute_cos_text(clip, "face", "smiling face") < 0.9999


def test_reconstruction_is_the_mean_absolute_difference_per_sample():
    x, y = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    y[1, 0] = -3
    assert reconstruction_loss(x, y).tolist() == [0, 1]
