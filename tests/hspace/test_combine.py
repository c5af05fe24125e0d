import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.combine import Scaled, combine_deltas, rescale_to_steps
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.hspace.free_delta import GlobalDelta


@pytest.fixture
def deltas():
    return list(torch.randn(4, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("num_test_steps", [10, 40, 1000])
def test_rescaling_keeps_the_sum_over_the_process(num_test_steps):
    assert num_test_steps * rescale_to_steps(40, num_test_steps) == pytest.approx(40)


def test_n_directions_are_added_and_divided_by_the_root_of_n(deltas):
    strengths = [1.0, -0.5, 2.0, 0.0]
    total = deltas[0] - 0.5 * deltas[1] + 2 * deltas[2]
    assert_close(combine_deltas(deltas, strengths), total / 2)
    assert_close(combine_deltas(deltas, strengths, normalise=False), total)


def test_one_direction_of_strength_one_is_itself(deltas):
    assert torch.equal(combine_deltas(deltas[:1], [1.0]), deltas[0])


def test_independent_directions_together_are_as_long_as_one():
    deltas = list(torch.randn(9, 1, 512, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert combine_deltas(deltas, [1.0] * 9).norm() / deltas[0].norm() == pytest.approx(1, abs=0.02)


def test_strengths_per_sample_reach_their_own_sample(deltas):
    per_sample = torch.tensor([0.5, -1.0]).view(2, 1, 1, 1)
    combined = combine_deltas(deltas[:2], [per_sample, 1.0], normalise=False)
    assert_close(combined[0], 0.5 * deltas[0][0] + deltas[1][0])
    assert_close(combined[1], -deltas[0][1] + deltas[1][1])


@pytest.mark.parametrize(("count", "strengths"), [(0, []), (2, [1.0]), (1, [1.0, 1.0])])
def test_each_direction_needs_its_strength(deltas, count, strengths):
    with pytest.raises(ValueError, match=f"{count} directions need {count} strengths .*got {len(strengths)}"):
        combine_deltas(deltas[:count], strengths)


@pytest.mark.parametrize("direction", [GlobalDelta(16, 4), DDPMDelta(16, 24, num_groups=4)])
def test_a_scaled_direction_is_its_delta_h_times_the_strength(direction):
    h, temb, t = torch.randn(2, 16, 4, 4), torch.randn(2, 24), torch.tensor([5, 5])
    delta_h = direction(h, temb, t)
    assert_close(Scaled(direction, -1.5)(h, temb, t), -1.5 * delta_h)
    per_sample = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    assert_close(Scaled(direction, per_sample)(h, temb, t), torch.stack([0 * delta_h[0], 2 * delta_h[1]]))
