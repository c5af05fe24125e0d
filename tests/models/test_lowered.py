"""Weights cast once for autocast: what it computes stays bit-equal, and the copy follows the network."""

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.models.hspace_unet import HSpaceUNet

BLOCKS = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


@pytest.fixture
def network():
    torch.manual_seed(0)
    shared = {"sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return HSpaceUNet(UNet2DModel(**shared, **BLOCKS))


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 800])


def lower():
    return torch.autocast("cpu", torch.bfloat16)


def test_the_copy_computes_what_autocast_does(network, inputs):
    with lower():
        low, hidden = network(*inputs), network.encode(*inputs).h
        plain = network._run_encoder(network.unet, *inputs)
        assert torch.equal(low, network._run_decoder(network.unet, *plain, None))
    assert torch.equal(hidden, plain[0])
    assert hidden.dtype == torch.bfloat16
    assert not torch.equal(network(*inputs), low)


def test_weights_are_cast_once(network, inputs):
    def count_casts():
        with torch.profiler.profile() as profiler, lower():
            network(*inputs)
        return sum(event.count for event in profiler.key_averages() if event.key == "aten::_to_copy")

    network.unet.conv_in.weight.data.add_(0)
    with lower():
        network(*inputs)
    weights = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in network.modules())
    assert count_casts() < weights  # those of activations are left


@pytest.mark.parametrize("change", ["write", "move", "cast back"])
def test_the_copy_follows_its_network(network, inputs, change):
    with lower():
        before = network(*inputs)
        if change == "write":
            network.unet.conv_in.bias[0] += 1
        elif change == "move":
            network.to(memory_format=torch.channels_last)
        else:
            network.double().float()
        changed = network(*inputs)
        assert torch.equal(changed, network._run_decoder(network.unet, *network.encode(*inputs), None))
    assert torch.equal(before, changed) is (change == "cast back")


def test_a_copy_made_in_inference_mode_lets_gradients_through(network, inputs):
    with torch.inference_mode(), lower():
        network(*inputs)
    with lower():
        bottleneck = network.encode(*inputs)
        delta_h = torch.zeros_like(bottleneck.h, requires_grad=True)
        network.decode(bottleneck, delta_h).sum().backward()
    assert delta_h.grad.abs().sum() > 0


def test_state_and_fingerprint_know_nothing_of_the_copy(network, inputs):
    before, names = network.fingerprint(), list(network.state_dict())
    with lower():
        network(*inputs)
    assert (network.fingerprint(), list(network.state_dict())) == (before, names)


def test_later_hooks_see_the_copy_s_calls(network, inputs):
    seen = []
    with lower():
        network(*inputs)
        hook = network.unet.conv_in.register_forward_hook(lambda *_: seen.append(1))
        network(*inputs)
        hook.remove()
        network(*inputs)
    assert seen == [1]


def test_later_hooks_of_every_kind_see_the_copy_s_calls(network, inputs):
    seen, conv = [], network.unet.conv_in
    with lower():
        network(*inputs)
        conv.register_forward_hook(lambda module, args, kwargs, output: seen.append("after"), with_kwargs=True)
        conv.register_forward_pre_hook(lambda module, args: seen.append("before"))
        network(*inputs)
    assert seen == ["before", "after"]
