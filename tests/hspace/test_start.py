import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.eps_delta import EpsDelta
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta
from asyrp_lit.hspace.start import scale_start


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
    scale_start(network, factor)
    delta = network(*inputs)
    assert_close(delta, factor * before)
    (delta - 1).square().sum().backward()
    assert all(parameter.grad.any() for parameter in list(network.parameters())[-2:])
