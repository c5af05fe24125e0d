import torch
from torch.testing import assert_close

from asyrp_lit.hspace.direction import direction_arguments, get_space, make_direction
from asyrp_lit.hspace.eps_delta import EpsDelta


def test_it_is_a_kind_of_direction_in_eps_space_as_wide_as_f_t():
    arguments = direction_arguments("f_eps", 16, 4, 24, (0, 999))
    direction = make_direction("f_eps", **arguments)
    assert arguments == {"channels": 3, "temb_channels": 24, "width": 16}
    assert get_space(direction) == "eps"
    eps, temb, t = torch.randn(2, 3, 8, 8), torch.randn(2, 24), torch.tensor([7, 7])
    assert direction(eps, temb, t).shape == eps.shape
    assert_close(direction(eps, temb, t)[1:], direction(eps[1:], temb[1:], t[1:]), atol=1e-6, rtol=1e-5)


def test_it_knows_the_timestep():
    direction = EpsDelta(3, 24, 64)  # two channels a group: of a channel alone GroupNorm would take the shift away
    eps, t = torch.randn(1, 3, 8, 8), torch.tensor([7])
    early, late = direction(eps, torch.zeros(1, 24), t), direction(eps, torch.ones(1, 24), t)
    assert not torch.allclose(early, late, atol=1e-3)
