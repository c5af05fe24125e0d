import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.hspace.combine import Combined, Scaled, combine_deltas, list_parts, rescale_to_steps
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


def constant(value, space="h"):
    """A direction whose delta_h is ``value`` everywhere."""

    def propose(h, temb, t):
        return torch.full_like(h, value)

    propose.space = space
    return propose


def propose(combined, num_samples=2, t=500):
    h = torch.zeros(combined.copies * num_samples, 4, 2, 2)
    return combined(h, torch.zeros(len(h), 8), torch.full((len(h),), t))


def test_every_copy_of_the_batch_has_its_own_strengths():
    combined = Combined([constant(1.0), constant(10.0)], [(1, 0), (0.5, 2), (0, 0)])
    first, second, third = propose(combined)[:, 0, 0, 0].view(3, 2)
    assert_close(first, torch.full((2,), 1 / 2**0.5))
    assert_close(second, torch.full((2,), 20.5 / 2**0.5))
    assert not third.any()
    assert combined.find_edited(6).tolist() == [0, 1, 2, 3]


def test_a_plain_sum_is_not_divided():
    assert_close(
        propose(Combined([constant(1.0), constant(10.0)], [(1, 1)], normalise=False)), torch.full((2, 4, 2, 2), 11.0)
    )


@pytest.mark.parametrize(("t", "value"), [(700, 1.0), (600, 11.0), (400, 10.0), (300, 0.0)])
def test_a_direction_takes_part_in_its_own_interval(t, value):
    intervals = [Interval(500, 0), Interval(400, 0, t_start=600)]
    combined = Combined([constant(1.0), constant(10.0)], [(1, 1)], normalise=False, intervals=intervals)
    assert_close(propose(combined, t=t), torch.full((2, 4, 2, 2), value))


def test_a_mask_is_the_share_of_delta_h_at_each_place():
    mask = torch.tensor([[1.0, 0.5], [0.0, 0.25]]).view(1, 1, 2, 2)
    assert_close(propose(Combined([constant(4.0)], [(1,)], mask=mask))[0, 0], 4 * mask[0, 0])


@pytest.mark.parametrize(
    ("directions", "strengths", "message"),
    [
        ([], [()], "at least one direction"),
        ([constant(1.0)], [], "at least one direction"),
        ([constant(1.0)], [(1, 2)], r"1 directions need 1 strengths, got \[1, 2\]"),
        ([constant(1.0)], [(float("nan"),)], "strength must be a finite number, got .nan"),
        ([constant(1.0), constant(1.0, "eps")], [(1, 1)], r"different spaces \(h, eps, x\) cannot be added"),
    ],
)
def test_what_cannot_be_combined_is_refused(directions, strengths, message):
    with pytest.raises(ValueError, match=message):
        Combined(directions, strengths)


def test_every_direction_needs_its_interval():
    with pytest.raises(ValueError, match="2 directions need 2 intervals, got 1"):
        Combined([constant(1.0), constant(1.0)], [(1, 1)], intervals=[Interval(0, 0)])


def test_the_parts_of_scaled_and_combined_directions_are_found():
    one, two = constant(1.0), constant(2.0)
    assert list_parts(one) == [one]
    assert list_parts(Combined([Scaled(one, 2.0), Scaled(two, 1.0)], [(1, 1)])) == [one, two]
