import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.eps_delta import EpsDelta
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta
from asyrp_lit.hspace.free_delta import GlobalDelta, PerTimestepDelta
from asyrp_lit.hspace.scale import scale_delta


@pytest.mark.parametrize("network", [DDPMDelta(16, 24, 4), ADMDelta(16, 24, 4), EpsDelta(16, 24, 8)])
@pytest.mark.parametrize("factor", [0.1, 1.0, 0.0])
def test_the_start_of_training_is_scaled_and_still_reaches_the_last_layer(network, factor):
    generator = torch.Generator().manual_seed(0)
    inputs = (
        torch.randn(2, 16, 4, 4, generator=generator),
        torch.randn(2, 24, generator=generator),
        torch.tensor([9, 5]),
    )
    before = network(*inputs).detach()
    scale_delta(network, factor)
    delta = network(*inputs)
    assert_close(delta, factor * before)
    (delta - 1).square().sum().backward()
    assert all(parameter.grad.any() for parameter in list(network.parameters())[-2:])


@pytest.mark.parametrize("direction", [PerTimestepDelta((5, 9), 16, 4), GlobalDelta(16, 4)])
def test_a_free_delta_h_is_scaled(direction):
    inputs = torch.zeros(2, 16, 4, 4), torch.zeros(2, 24), torch.tensor([9, 5])
    before = direction(*inputs).detach().clone()
    scale_delta(direction, -3.0)
    assert_close(direction(*inputs), -3 * before)
