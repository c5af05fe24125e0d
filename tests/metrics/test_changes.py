import math

import torch

from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.metrics.changes import count_changes, summarise_changes

#: serious, short black hair, light skin, no beard, no glasses.
PLAIN = [3, 0, 0, 3, 0, 0]


def test_rates_and_new_classes_are_shares_of_the_images():
    before = torch.tensor([PLAIN] * 4)
    after = before.clone()
    after[:3, 5] = torch.tensor([1, 1, 2])
    changes = count_changes(before, after)
    assert changes["glasses"].rate == 0.75
    assert changes["glasses"].towards == {"glasses": 0.5, "sunglasses": 0.25}
    assert all(changes[name] == (0, {}) for name in LABELS if name != "glasses")
    assert summarise_changes(changes) == "glasses 0.75 (glasses 0.50)"


def test_a_label_that_was_undefined_is_left_out_and_one_that_becomes_it_counts():
    before, after = torch.tensor([PLAIN, PLAIN]), torch.tensor([PLAIN, PLAIN])
    before[0, 2] = after[1, 2] = -1
    assert count_changes(before, after)["hair_color"] == (1, {"undefined": 1})
    assert math.isnan(count_changes(before[:1], after[:1])["hair_color"].rate)
    assert summarise_changes(count_changes(before[:1], after[:1])) == "no label at 0.20 or more"
