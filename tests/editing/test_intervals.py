import pytest
import torch
from diffusers import UNet2DModel
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.intervals import NEVER, edit_intervals, sample_intervals
from asyrp_lit.editing.kept import KeptImages
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.models.hspace_unet import HSpaceUNet

#: On the grid 0, 249, 499, 749, 999.
INTERVALS = [NEVER, *(Interval(t_edit, t_boost, 749) for t_edit in (249, 499, 749) for t_boost in (0, 250, 1000))]
SEEDS = [11, 22]


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    direction = DDPMDelta(16, 32, num_groups=4).requires_grad_(False)
    return HSpaceUNet(unet), 0.01 * torch.randn(2, 3, 16, 16), make_time_grid(5), make_alphas_cumprod(), direction


def test_intervals_at_once_are_each_of_them_alone(parts):
    found = dict(sample_intervals(*parts, INTERVALS, SEEDS))
    assert sorted(found) == list(range(len(INTERVALS)))
    for number, images in found.items():
        assert_close(images, sample_images(*parts, INTERVALS[number], SEEDS), atol=1e-5, rtol=1e-5)


def test_never_is_the_reconstruction(parts):
    ((_, images),) = sample_intervals(*parts, [NEVER], SEEDS)
    assert_close(images, sample_images(*parts[:4]), atol=1e-5, rtol=1e-5)


def test_intervals_share_their_passes_until_they_part(parts):
    model = parts[0]
    model.passes.update(encode=0, decode=0)
    found = sample_intervals(*parts, [Interval(t_edit, 0) for t_edit in (249, 499, 749)], SEEDS)
    next(found)  # is finished before the last of the others has begun
    assert model.passes["encode"] < 2 * (1 + 1 + 2 + 3 + 3)
    list(found)
    # One branch at 999 and 749; at 499 the third parts, at 249 the second. All but the parted ones edit, until 0.
    assert model.passes == {"encode": 2 * (1 + 1 + 2 + 3 + 3), "decode": 2 * (2 + 2 + 3 + 4 + 3)}


def test_equal_intervals_cost_one(parts):
    model = parts[0]
    model.passes.update(encode=0, decode=0)
    (_, first), (_, second) = sample_intervals(*parts, [Interval(249, 500)] * 2, SEEDS)
    assert torch.equal(first, second)
    assert model.passes["encode"] == 2 * 5


def edit(parts, kept, intervals, x_T=None):
    """The edits, and the encodes that they took."""
    model, latents, grid, _, direction = parts
    model.passes.update(encode=0)
    x_T = latents if x_T is None else x_T
    found = edit_intervals(model, x_T, grid, direction, intervals, 2, kept, [11, 22, 33, 44][: len(x_T)])
    return found, model.passes["encode"]


def test_a_kept_edit_is_not_made_again(parts, tmp_path):
    kept, (one, two) = KeptImages(tmp_path), (Interval(249, 500), Interval(749, 0))
    first, cost = edit(parts, kept, [one])
    assert cost == 2 * 5
    both, cost = edit(parts, kept, [one, two])
    assert cost == 2 * 5
    assert torch.equal(both[one], first[one])
    assert_close(both[one], sample_images(*parts, one, SEEDS), atol=1e-5, rtol=1e-5)
    assert_close(both[two], sample_images(*parts, two, SEEDS), atol=1e-5, rtol=1e-5)
    again, cost = edit(parts, kept, [two, one])
    assert cost == 0
    assert all(torch.equal(again[interval], both[interval]) for interval in (one, two))
    more, cost = edit(parts, kept, [one, two], torch.cat([parts[1], parts[1] + 0.01]))
    assert cost == 2 * (2 + 2 * 3)  # of the two new images; both intervals edit at 999 and 749
    assert torch.equal(more[one][:2], first[one])


def test_a_damaged_file_is_made_again(parts, tmp_path, caplog):
    kept = KeptImages(tmp_path)
    first, _ = edit(parts, kept, [NEVER])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again, cost = edit(parts, kept, [NEVER])
    assert (cost, "is damaged" in caplog.text) == (2 * 5, True)
    assert torch.equal(again[NEVER], first[NEVER])
