"""What CLIP shall read as before: zero for equal readings, the divergence by hand, whatever the other directions do."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from asyrp_lit.data.avatars.captions import class_prompts, other_prompts
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.kept import KeptReadings

PROMPTS = {"man": [1.0, 0.0, 0.0], "woman": [0.0, 1.0, 0.0], "day": [0.0, 0.0, 1.0], "night": [0.0, 0.0, -1.0]}


class Words(FrozenCLIP):
    """A CLIP whose texts are looked up and whose logits are twice the cosines."""

    logit_scale = 2.0

    def __init__(self):
        nn.Module.__init__(self)

    def encode_texts(self, texts):
        return torch.tensor([PROMPTS[text] for text in texts])


def test_the_divergence_by_hand():
    kept = KeptReadings(Words(), [("man", "woman")])
    source, edit = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    p = 1 / (1 + math.exp(-2))
    expected = p * math.log(p / (1 - p)) + (1 - p) * math.log((1 - p) / p)
    assert_close(kept(edit, source), torch.tensor([expected]))


def test_equal_readings_cost_nothing_and_groups_are_averaged():
    source, edit = torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([[0.6, 0.0, 0.8]])
    one, other = KeptReadings(Words(), [("man", "woman")]), KeptReadings(Words(), [("day", "night")])
    both = KeptReadings(Words(), [("man", "woman"), ("day", "night")])
    assert_close(both(source, source), torch.zeros(1))
    assert_close(both(edit, source), (one(edit, source) + other(edit, source)) / 2)
    unread = torch.tensor([[0.6, 0.8, 0.3]])  # along a direction that the group has no word for
    assert_close(one(unread, source), torch.zeros(1))
    assert other(unread, source) > 0.01


def test_the_gradient_goes_to_the_edit():
    edit = torch.tensor([[0.0, 1.0, 0.0]], requires_grad=True)
    KeptReadings(Words(), [("man", "woman")])(edit, torch.tensor([[1.0, 0.0, 0.0]])).sum().backward()
    assert edit.grad[0, 0] < 0 < edit.grad[0, 1]


@pytest.mark.parametrize("groups", [[], [("man",)], [("man", "woman"), ()]])
def test_a_group_needs_two_prompts(groups):
    with pytest.raises(ValueError, match=r"attr\.keep needs groups of two or more prompts"):
        KeptReadings(Words(), groups)


def test_the_other_prompts_are_those_of_all_other_labels():
    groups = other_prompts({"beard": ("yes",)})
    assert len(groups) == len(class_prompts()) - 1
    assert class_prompts()["beard"] not in groups
