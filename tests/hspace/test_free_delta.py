import torch

from asyrp_lit.hspace.free_delta import GlobalDelta, PerTimestepDelta


def make_inputs(batch):
    return torch.randn(batch, 16, 4, 4), torch.randn(batch, 24)


def test_each_sample_gets_the_delta_h_of_its_own_timestep():
    direction = PerTimestepDelta([0, 500, 999], 16, 4)
    delta_h = direction(*make_inputs(4), torch.tensor([999, 0, 500, 999]))
    assert torch.equal(delta_h, direction.delta_h[[2, 0, 1, 2]])


def test_between_grid_points_the_nearest_one_is_used():
    direction = PerTimestepDelta([0, 500, 999], 16, 4)
    delta_h = direction(*make_inputs(3), torch.tensor([249, 251, 760]))
    assert torch.equal(delta_h, direction.delta_h[[0, 1, 2]])


def test_only_the_timesteps_of_the_batch_get_a_gradient():
    direction = PerTimestepDelta([0, 500, 999], 16, 4)
    direction(*make_inputs(2), torch.tensor([500, 500])).sum().backward()
    assert direction.delta_h.grad.flatten(1).sum(dim=1).tolist() == [0, 2 * 16 * 4 * 4, 0]


def test_the_global_delta_h_is_one_for_all_images_and_timesteps():
    direction = GlobalDelta(16, 4)
    delta_h = direction(*make_inputs(3), torch.tensor([0, 500, 999]))
    assert torch.equal(delta_h, direction.delta_h.repeat(3, 1, 1, 1))


def test_neither_starts_at_zero_where_the_clip_direction_has_no_gradient():
    torch.manual_seed(0)
    for direction in (PerTimestepDelta([0, 999], 16, 4), GlobalDelta(16, 4)):
        assert 0.005 < direction.delta_h.std() < 0.02
