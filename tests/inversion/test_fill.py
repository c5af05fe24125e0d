"""Stores filled with helpers, and from random latents."""

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from asyrp_lit.data.images import ImageFolder
from asyrp_lit.data.latents import LatentStore, to_uint8
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.inversion.fill import fill_store, make_store_key
from asyrp_lit.inversion.invert import sample_pred_x0
from asyrp_lit.models.hspace_unet import HSpaceUNet

ALPHAS = make_alphas_cumprod()


@pytest.fixture
def model():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.conv_out.weight.data.mul_(0.01)
    return HSpaceUNet(unet, "tiny")


@pytest.fixture
def folder(tmp_path):
    """Nine images, the seventh of which is none."""
    path = tmp_path / "images"
    path.mkdir()
    for number in range(9):
        Image.new("RGB", (20, 16), (number * 20, 0, 255)).save(path / f"{number}.png")
    (path / "6.png").write_bytes(b"broken")
    return path


def make_store(root, model, source, **options):
    key = make_store_key(model, source, 5, 999, **options)
    return LatentStore.create(root, key, source.keys, shard_size=4)


def read_files(store):
    return {path.name: path.read_bytes() for path in store.folder.glob("*.*") if path.suffix != ".lock"}


def test_a_store_has_the_same_bytes_with_any_number_of_workers(model, folder, tmp_path):
    source = ImageFolder(folder, 8, on_bad_image="skip")
    stores = [make_store(tmp_path / str(count), model, source, pred_x0_steps=(999,)) for count in (0, 1, 3)]
    for count, store in zip((0, 1, 3), stores, strict=True):
        fill_store(model, source, store, 3, progress=False, num_workers=count)
    first, *others = map(read_files, stores)
    assert len(first) == 3
    assert others == [first, first]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_is_one_line_and_the_shards_before_it_are_kept(model, folder, tmp_path, num_workers):
    source = ImageFolder(folder, 8)
    store = make_store(tmp_path / "store", model, source)
    with pytest.raises(ValueError, match=r"6\.png cannot be read .*on_bad_image=skip") as caught:
        fill_store(model, source, store, 2, progress=False, num_workers=num_workers)
    assert "\n" not in str(caught.value)
    assert store.missing_shards() == [1, 2]


def test_random_latents_are_kept_and_their_images_are_the_unedited_samples(model, tmp_path):
    source = RandomLatents("train", 6, 8)
    store = make_store(tmp_path, model, source, pred_x0_steps=(999, 499))
    assert fill_store(model, source, store, 2, progress=False) == [0, 1]
    x_T = torch.stack([source[i].x_T for i in range(6)])
    assert torch.equal(torch.stack([store[i]["x_T"] for i in range(6)]), x_T)
    x_0 = to_uint8(sample_images(model, x_T, store.key.grid, ALPHAS)).int()
    assert (torch.stack([store[i]["x_0"] for i in range(6)]).int() - x_0).abs().max() <= 1
    assert x_0.float().std() > 10  # not grey
    kept = sample_pred_x0(model, x_T, store.key.pred_x0_steps, store.key.grid, ALPHAS)
    torch.testing.assert_close(torch.stack([store[i]["pred_x0"] for i in range(6)]).float(), kept, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("steps", [(), (999, 499), (999, 749, 499, 249, 0)])
def test_a_sample_takes_one_pass_a_step_whatever_is_kept(model, tmp_path, steps):
    source = RandomLatents("val", 4, 8)
    store = make_store(tmp_path, model, source, pred_x0_steps=steps)
    fill_store(model, source, store, 2, progress=False)
    assert model.passes == {"encode": 4 * 5, "decode": 4 * 5}
    assert ("pred_x0" in store[0]) == bool(steps)


def test_sampling_goes_on_with_the_missing_shard_to_the_same_bytes(model, tmp_path):
    source = RandomLatents("train", 6, 8)
    store = make_store(tmp_path, model, source)
    fill_store(model, source, store, 2, progress=False)
    whole = read_files(store)
    store.shard_path(1).unlink()
    assert fill_store(model, source, store, 2, progress=False, num_workers=2) == [1]
    assert read_files(store) == whole


def test_a_sample_that_is_not_finite_is_named(model, tmp_path):
    source = RandomLatents("train", 3, 8)
    store = make_store(tmp_path, model, source)
    model.unet.conv_out.bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"x_0 is not finite for train-000000, train-000001"):
        fill_store(model, source, store, 2, progress=False)


def test_the_bar_says_what_is_done(model, tmp_path, capsys):
    source = RandomLatents("val", 2, 8)
    fill_store(model, source, make_store(tmp_path, model, source), 2)
    assert "sample random-val: 100%" in capsys.readouterr().err
