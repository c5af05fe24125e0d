import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.training.pretrain_readers import degrade_images, match_captions, mean_label_loss, multi_positive_loss


def test_a_caption_fits_the_images_that_show_all_it_mentions():
    labels = torch.tensor([[0, 1, 2], [0, 1, 0], [1, 1, -1]])
    claims = torch.tensor([[0, -1, -1], [0, -1, 2], [-1, -1, -1], [-1, 0, -1]])
    expected = [[True, True, True, False], [True, False, True, False], [False, False, True, False]]
    assert match_captions(labels, claims).tolist() == expected


def test_with_one_caption_an_image_the_loss_is_clip_s():
    logits, own = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert_close(multi_positive_loss(logits, torch.eye(5, dtype=torch.bool)), expected)


def test_several_right_answers_share_the_weight():
    logits = torch.tensor([[0.0, 0.0, -1e9], [-1e9, -1e9, 0.0]])
    positives = torch.tensor([[True, True, False], [False, False, True]])
    assert_close(multi_positive_loss(logits, positives), torch.tensor(math.log(2) / 4))


def test_labels_that_are_undefined_do_not_count():
    logits = {name: torch.zeros(2, len(classes)) for name, classes in LABELS.items()}
    labels = torch.zeros(2, len(LABELS), dtype=torch.int64)
    expected = sum(math.log(len(classes)) for classes in LABELS.values()) / len(LABELS)
    assert mean_label_loss(logits, labels).item() == pytest.approx(expected)
    labels[1, 0] = -1
    logits[next(iter(LABELS))][1] = 100 * torch.arange(len(LABELS[next(iter(LABELS))]))
    assert mean_label_loss(logits, labels).item() == pytest.approx(expected)


def test_degrading_at_strength_zero_does_nothing_but_flip():
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    degraded = degrade_images(x, strength=0.0)
    flipped = [torch.equal(one, own.flip(-1)) for one, own in zip(degraded, x, strict=True)]
    kept = [torch.equal(one, own) for one, own in zip(degraded, x, strict=True)]
    assert 0 < sum(flipped) < 16
    assert sum(flipped) + sum(kept) == 16


def test_degraded_images_keep_their_shape_and_fade_by_at_most_two_fifths():
    torch.manual_seed(0)
    for _ in range(20):
        degraded = degrade_images(torch.ones(4, 3, 64, 64))
        assert degraded.shape == (4, 3, 64, 64)
        assert degraded.mean(dim=(1, 2, 3)).min() > 0.58
        assert degraded.mean(dim=(1, 2, 3)).max() < 1.02
        assert degraded.std(dim=(1, 2, 3)).max() < 0.42
