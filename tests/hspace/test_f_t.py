import pytest
import torch
from torch.testing import assert_close

from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta, choose_num_groups

DDPM_KEYS = {"conv1", "temb_proj", "norm2", "conv2"}
ADM_KEYS = {"in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"}
LAYOUTS = pytest.mark.parametrize("layout", [DDPMDelta, ADMDelta])


def make_inputs(batch=2):
    generator = torch.Generator().manual_seed(0)
    h, temb = torch.randn(batch, 16, 4, 4, generator=generator), torch.randn(batch, 24, generator=generator)
    return h, temb, torch.arange(batch)


@pytest.mark.parametrize(("layout", "expected"), [(DDPMDelta, 788_992), (ADMDelta, 790_016)])
def test_parameter_counts_are_the_released_ones(layout, expected):
    assert sum(parameter.numel() for parameter in layout(512, 512).parameters()) == expected


@pytest.mark.parametrize(("layout", "modules"), [(DDPMDelta, DDPM_KEYS), (ADMDelta, ADM_KEYS)])
@pytest.mark.parametrize("use_time", [True, False])
def test_keys_are_those_of_the_released_files(layout, modules, use_time):
    keys = layout(16, 24, num_groups=4, use_time=use_time).state_dict().keys()
    assert set(keys) == {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}


def test_ddpm_layout_is_the_paper_s_equation():
    f_t = DDPMDelta(16, 24, num_groups=4)
    h, temb, t = make_inputs()
    hidden = f_t.conv1(h) + f_t.temb_proj(temb * temb.sigmoid())[:, :, None, None]
    grouped = hidden.view(2, 4, -1)
    grouped = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    normed = grouped.view_as(h)
    assert_close(f_t(h, temb, t), f_t.conv2(normed * normed.sigmoid()), atol=1e-5, rtol=1e-5)


@LAYOUTS
def test_use_time_false_ignores_temb_and_freezes_its_projection(layout):
    f_t = layout(16, 24, num_groups=4, use_time=False)
    h, temb, t = make_inputs()
    assert torch.equal(f_t(h, temb, t), f_t(h, temb + 1, t + 1))
    frozen = {name.split(".")[0] for name, parameter in f_t.named_parameters() if not parameter.requires_grad}
    assert frozen == {"temb_proj" if layout is DDPMDelta else "emb_layers"}


@LAYOUTS
def test_delta_h_depends_on_temb_and_reaches_every_parameter(layout):
    f_t = layout(16, 24, num_groups=4)
    h, temb, t = make_inputs()
    assert not torch.allclose(f_t(h, temb, t), f_t(h, temb + 1, t), atol=1e-3)
    f_t(h, temb, t).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in f_t.parameters())


@LAYOUTS
def test_delta_h_of_a_sample_is_independent_of_its_batch(layout):
    f_t = layout(16, 24, num_groups=4)
    h, temb, t = make_inputs(batch=3)
    assert_close(f_t(h, temb, t)[1:2], f_t(h[1:2], temb[1:2], t[1:2]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("h_channels", "expected"), [(512, 32), (48, 24), (24, 24), (37, 1), (100, 25)])
def test_no_num_groups_takes_the_largest_divisor_up_to_32(h_channels, expected):
    assert choose_num_groups(h_channels, None) == expected


@LAYOUTS
def test_num_groups_that_do_not_divide_are_refused(layout):
    with pytest.raises(ValueError, match="num_groups must divide h_channels = 48, got 32; None takes 24"):
        layout(48, 24)
