from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel

from asyrp_lit.models.hspace_unet import HSpaceUNet

PLAIN = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
ATTENTION = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
}
LEARNED_SIGMA = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 4,
    "out_channels": 6,
}


def make_network(config) -> HSpaceUNet:
    torch.manual_seed(0)
    shared = {"sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    return HSpaceUNet(UNet2DModel(**shared, **config))


@pytest.fixture(params=[PLAIN, ATTENTION, LEARNED_SIGMA], ids=["plain", "attention", "learned_sigma"])
def network(request):
    return make_network(request.param)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 16, 16, generator=generator), torch.tensor([7, 800])


def test_decode_of_encode_is_bit_equal_to_forward(network, inputs):
    with torch.no_grad():
        expected = network.unet(*inputs).sample[:, :3]
        assert torch.equal(network.decode(network.encode(*inputs)), expected)
        assert torch.equal(network(*inputs), expected)


def test_centred_input_is_bit_equal_to_forward(inputs):
    network = make_network(ATTENTION | {"center_input_sample": True})
    assert torch.equal(network(*inputs), network.unet(*inputs).sample)


def test_bottleneck_has_the_announced_sizes(network, inputs):
    h, skips, temb = network.encode(*inputs)
    assert h.shape == (2, network.h_channels, network.h_size, network.h_size)
    assert temb.shape == (2, network.temb_channels)
    assert all(tensor.is_contiguous() for tensor in (h, *skips))


def test_zero_delta_h_changes_nothing(network, inputs):
    bottleneck = network.encode(*inputs)
    assert torch.equal(network.decode(bottleneck, torch.zeros_like(bottleneck.h)), network.decode(bottleneck))


def test_selected_samples_are_decoded_as_among_all(network, inputs):
    bottleneck = network.encode(*inputs)
    rows = torch.tensor([1, 0, 1])
    selected = network.decode(bottleneck.select(rows))
    torch.testing.assert_close(selected, network.decode(bottleneck)[rows], atol=1e-6, rtol=1e-5)


def test_network_stays_frozen_but_lets_gradients_through(network, inputs):
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    bottleneck = network.encode(*inputs)
    delta_h = torch.zeros_like(bottleneck.h, requires_grad=True)
    network.decode(bottleneck, delta_h).square().sum().backward()
    assert delta_h.grad.abs().sum() > 0


@pytest.mark.parametrize("config", [ATTENTION, LEARNED_SIGMA], ids=["attention", "learned_sigma"])
def test_attention_is_torch_s_own(config, inputs):
    attention = F.scaled_dot_product_attention
    with mock.patch.object(F, "scaled_dot_product_attention", side_effect=attention) as called:
        make_network(config)(*inputs)
    assert called.call_count == 4  # down, middle, twice up


@pytest.mark.parametrize("config", [PLAIN, ATTENTION, LEARNED_SIGMA], ids=["plain", "attention", "learned_sigma"])
def test_channels_last_changes_nothing_and_lasts_to_the_end(config, inputs):
    plain, network = make_network(config), make_network(config).to(memory_format=torch.channels_last)
    bottleneck = network.encode(*inputs)
    for tensor in (bottleneck.h, *bottleneck.skips):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(network.decode(bottleneck), plain(*inputs), atol=1e-5, rtol=1e-4)


def test_passes_count_images(network, inputs):
    bottleneck = network.encode(*inputs)
    network.decode(bottleneck)
    network.decode(bottleneck.repeat(2), torch.zeros_like(bottleneck.h).repeat(2, 1, 1, 1))
    assert network.passes == {"encode": 2, "decode": 6}


def test_fingerprint_follows_the_weights(network):
    before = network.fingerprint()
    assert network.fingerprint() == before
    network.unet.conv_in.bias[0] += 1
    assert network.fingerprint() != before
