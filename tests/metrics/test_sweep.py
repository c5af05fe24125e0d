import torch
from diffusers import UNet2DModel
from torch import nn
from torch.testing import assert_close

from asyrp_lit.data.latents import LatentStore
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.metrics.panel import MetricPanel
from asyrp_lit.metrics.sweep import judge_strengths
from asyrp_lit.models.hspace_unet import HSpaceUNet


class Items(LatentStore):
    """Stands for a store on disk."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class NoPanel(MetricPanel):
    """Judges nothing."""

    def __init__(self):
        nn.Module.__init__(self)

    def update(self, *images):
        pass


def judge(items, batch_size, seed=0):
    """Edits of a tiny network that end in boosting, by column."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    direction = DDPMDelta(16, 32, num_groups=4).requires_grad_(False)
    common = (HSpaceUNet(unet), Items(items), make_time_grid(5), direction, Interval(499, 500))
    panels = {1.0: NoPanel()}
    return judge_strengths(*common, panels, batch_size, torch.device("cpu"), seed)


def test_a_boosted_edit_is_the_same_at_any_place_and_in_any_batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, 16, 16), generator=generator, dtype=torch.uint8)
    items = [{"x_0": x_0, "x_T": 0.01 * torch.randn(3, 16, 16, generator=generator)} for x_0 in pixels]
    edits = judge(items, 6)["strength 1"]
    assert_close(judge(items[::-1], 2)["strength 1"].flip(0), edits, atol=1e-5, rtol=1e-5)
    assert (judge(items, 6, seed=1)["strength 1"] - edits).abs().mean() > 0.1
