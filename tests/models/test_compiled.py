"""Compiled halves: equal results, whole graphs, no compiling in a loop. The backend is one that needs no compiler."""

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from diffusers import UNet2DModel
from torch._dynamo.utils import counters
from torch.testing import assert_close

from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.models.compiled import check_compiler
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.sanity import compare_settings

BLOCKS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
GRID = make_time_grid(3)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["plain", "channels_last"])
def pair(request):
    """The same network as it is and compiled."""
    torch._dynamo.reset()
    counters.clear()
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        shared = {"sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
        networks.append(HSpaceUNet(UNet2DModel(**shared, **BLOCKS)).to(memory_format=request.param))
    networks[1].compile_halves(backend="eager")
    yield SimpleNamespace(plain=networks[0], compiled=networks[1])
    torch._dynamo.reset()


def make_images(count):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def work(network, sizes, f_t):
    """Invert, train and edit batches of these sizes; what comes of it."""
    table, found = make_alphas_cumprod(), []
    for size in sizes:
        x_T = invert_images(network, make_images(size), GRID, table).x_T
        for t in GRID:
            steps = torch.full((size,), t)
            with torch.no_grad():
                bottleneck = network.encode(x_T, steps)
                eps = network.decode(bottleneck)
            eps_edit = network.decode(bottleneck, f_t(bottleneck.h, bottleneck.temb, steps))
            (eps_edit - eps).square().mean().backward()
        found.append(sample_images(network, x_T, GRID, table, f_t))
    return [*found, *(parameter.grad for parameter in f_t.parameters())]


def make_f_t():
    torch.manual_seed(1)
    return DDPMDelta(16, 32, num_groups=4)


def test_compiled_halves_invert_train_and_edit_alike(pair):
    assert_close(work(pair.compiled, [3], make_f_t()), work(pair.plain, [3], make_f_t()), atol=1e-3, rtol=1e-3)


def test_each_half_is_one_graph(pair):
    work(pair.compiled, [2], make_f_t())
    assert counters["graph_break"] == {}


def test_batches_of_other_sizes_compile_nothing_anew(pair):
    f_t = make_f_t()
    work(pair.compiled, [2], f_t)
    with torch._dynamo.config.patch(error_on_recompile=True):
        work(pair.compiled, [4, 2, 3, 5], f_t)


def test_a_compiled_half_can_be_differentiated_by_torch_func(pair):
    def pull(network):
        h, back = torch.func.vjp(lambda x: network.encode(x, torch.tensor([500])).h, make_images(1))
        return back(torch.ones_like(h))[0]

    assert_close(pull(pair.compiled), pull(pair.plain))


def test_the_comparison_of_settings_compiles_nothing(pair):
    with mock.patch("asyrp_lit.models.sanity._BETTER", 0):
        compare_settings(pair.compiled, make_images(2))
    assert not counters["stats"]


def test_a_missing_compiler_is_one_message():
    failing = mock.Mock(side_effect=RuntimeError("no g++ here"))
    with mock.patch("torch.compile", return_value=failing), pytest.raises(ValueError, match="take compile=false"):
        check_compiler(torch.device("cpu"), True)
