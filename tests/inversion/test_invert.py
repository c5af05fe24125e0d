"""Inversion and the filling of stores; run as a script it fills one slowly, to be killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from asyrp_lit.data.latents import LatentStore, from_uint8, to_uint8
from asyrp_lit.data.source import ImageItem
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.inversion.fill import fill_store, make_store_key
from asyrp_lit.inversion.invert import invert_images, sample_pred_x0
from asyrp_lit.models.hspace_unet import HSpaceUNet

ALPHAS = make_alphas_cumprod()


class Squares:
    """Images of random squares, each drawn from its index."""

    name = "squares"
    size = 8

    def __init__(self, count=10, delay=0.0):
        self.keys = [f"square-{i}" for i in range(count)]
        self.delay = delay

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        time.sleep(self.delay)
        pixels = torch.randint(0, 256, (3, 2, 2), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        return ImageItem(from_uint8(pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)), torch.tensor([index, -1]))

    def fingerprint(self):
        return "0123"


def make_model():
    """An untrained network; its last layer is scaled down, so that eps changes as slowly along t as a trained one's."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, add_attention=False, **blocks
    )
    unet.conv_out.weight.data.mul_(0.01)
    return HSpaceUNet(unet, "tiny")


def make_store(root, model, source, shard_size=4, num_steps=5, **options):
    key = make_store_key(model, source, num_steps, 999, **options)
    return LatentStore.create(root, key, source.keys, shard_size, num_labels=2)


def draw_images(count=3):
    return torch.stack([Squares()[i].x_0 for i in range(count)])


def read_files(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir() if path.is_file()}


def sample(model, x_t, grid):
    for t, t_prev in zip(reversed(grid), [*reversed(grid[:-1]), -1], strict=True):
        steps = torch.full((len(x_t),), t)
        alphas = gather_alpha_bar(ALPHAS, steps), gather_alpha_bar(ALPHAS, torch.full_like(steps, t_prev))
        with torch.no_grad():
            x_t = step_ddim(x_t, model(x_t, steps), *alphas)
    return x_t


def test_sampling_undoes_inversion_and_more_steps_do_it_better():
    model, x_0 = make_model(), draw_images()
    errors = []
    for num_steps in (10, 40, 160):
        grid = make_time_grid(num_steps)
        x_T = invert_images(model, x_0, grid, ALPHAS).x_T
        errors.append(float((sample(model, x_T, grid) - x_0).square().mean()))
    # First order in the step: a fourth of it takes a sixteenth of the squared error, here with room for the coarse end.
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 8 < 1e-3


def test_inversion_takes_one_pass_less_than_grid_points():
    model = make_model()
    result = invert_images(model, draw_images(3), make_time_grid(6), ALPHAS)
    assert model.passes == {"encode": 15, "decode": 15}
    assert result.pred_x0 is None
    assert not result.x_T.requires_grad


@pytest.mark.parametrize(("lowest", "passes"), [(999, 1), (599, 3), (0, 6)])
def test_p_t_takes_one_pass_per_grid_point_from_the_lowest_up(lowest, passes):
    model, grid = make_model(), make_time_grid(6)
    sample_pred_x0(model, draw_images(2), (999, lowest) if lowest < 999 else (999,), grid, ALPHAS)
    assert model.passes["encode"] == model.passes["decode"] == 2 * passes


def test_p_t_is_that_of_the_unedited_sampling_in_the_order_asked_for():
    model, grid = make_model(), (0, 333, 666, 999)
    result = invert_images(model, draw_images(2), grid, ALPHAS, keep_pred_x0=(666, 999))
    x_t, expected = result.x_T, []
    for t, t_prev in ((999, 666), (666, 333)):
        steps = torch.full((2,), t)
        alphas = gather_alpha_bar(ALPHAS, steps), gather_alpha_bar(ALPHAS, torch.full_like(steps, t_prev))
        with torch.no_grad():
            eps = model(x_t, steps)
        expected.insert(0, compute_pred_x0(x_t, eps, alphas[0]))
        x_t = step_ddim(x_t, eps, *alphas)
    assert torch.equal(result.pred_x0, torch.stack(expected, dim=1))


def test_p_t_at_the_clean_end_is_the_reconstruction():
    model, grid, x_T = make_model(), make_time_grid(6), torch.randn(2, 3, 8, 8)
    assert torch.equal(sample_pred_x0(model, x_T, (0,), grid, ALPHAS)[:, 0], sample(model, x_T, grid))


@pytest.mark.parametrize("timesteps", [(), (5,), (999, 5)])
def test_p_t_off_the_grid_is_refused(timesteps):
    with pytest.raises(ValueError, match="must be one or more of the time grid"):
        sample_pred_x0(make_model(), draw_images(), timesteps, make_time_grid(6), ALPHAS)


def test_a_filled_store_holds_the_inversion_of_the_source(tmp_path):
    model, source = make_model(), Squares()
    store = make_store(tmp_path, model, source, pred_x0_steps=(999, 499))
    assert fill_store(model, source, store, batch_size=2, progress=False) == [0, 1, 2]
    for index in (0, 5, 9):
        item = store[index]
        result = invert_images(model, source[index].x_0[None], store.key.grid, ALPHAS, store.key.pred_x0_steps)
        assert torch.equal(item["x_0"], to_uint8(source[index].x_0))
        assert torch.equal(item["labels"], source[index].labels)
        torch.testing.assert_close(item["x_T"], result.x_T[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(item["pred_x0"], result.pred_x0[0].half(), rtol=1e-2, atol=1e-2)


def test_only_missing_and_damaged_shards_are_computed_to_the_same_bytes(tmp_path):
    model, source = make_model(), Squares()
    store = make_store(tmp_path, model, source)
    fill_store(model, source, store, batch_size=3, progress=False)
    whole, passes = read_files(store), model.passes["encode"]
    assert passes == 10 * 4
    assert fill_store(model, source, store, batch_size=3) == []
    assert model.passes["encode"] == passes
    store.shard_path(0).unlink()
    store.shard_path(2).write_bytes(whole["shard-00002.safetensors"][:-7])
    assert fill_store(model, source, store, batch_size=3, progress=False) == [0, 2]
    assert model.passes["encode"] == passes + 6 * 4
    assert read_files(store) == whole


def test_an_interrupted_fill_leaves_whole_shards_only(tmp_path, monkeypatch):
    model, source = make_model(), Squares()
    store = make_store(tmp_path, model, source)
    draw = Squares.__getitem__

    def draw_until_6(self, index):
        if index == 6:
            raise KeyboardInterrupt
        return draw(self, index)

    monkeypatch.setattr(Squares, "__getitem__", draw_until_6)
    with pytest.raises(KeyboardInterrupt):
        fill_store(model, source, store, batch_size=2, progress=False)
    assert sorted(read_files(store)) == ["manifest.json", "shard-00000.safetensors"]
    assert store.missing_shards() == [1, 2]


def start(root):
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, __file__, str(root)], env=environment)


def test_kill_9_and_a_rerun_give_the_bytes_of_an_uninterrupted_run(tmp_path):
    process = start(tmp_path / "killed")
    while process.poll() is None and not list(tmp_path.glob("killed/*/shard-00002.*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    model, source = make_model(), Squares(40)
    killed, whole = (make_store(tmp_path / name, model, source) for name in ("killed", "whole"))
    missing = killed.missing_shards()
    assert 0 < len(missing) <= 7
    assert fill_store(model, source, killed, batch_size=3, progress=False) == missing
    fill_store(model, source, whole, batch_size=3, progress=False)
    assert read_files(killed) == read_files(whole)


def test_an_image_whose_latents_are_not_finite_is_named(tmp_path):
    model, source = make_model(), Squares()
    store = make_store(tmp_path, model, source)
    forward = model.forward

    def break_third(x_t, t):
        eps = forward(x_t, t)
        return eps + torch.where(torch.arange(len(eps)) == 2, torch.nan, 0.0).view(-1, 1, 1, 1)

    model.forward = break_third
    with pytest.raises(FloatingPointError, match=r"x_T is not finite for square-2: "):
        fill_store(model, source, store, batch_size=4, progress=False)
    assert store.missing_shards() == [0, 1, 2]


def test_bfloat16_passes_are_close_and_stored_as_float32(tmp_path):
    model, source = make_model(), Squares(4)
    exact, low = (make_store(tmp_path, model, source, precision=precision) for precision in ("32-true", "bf16"))
    for store in (exact, low):
        fill_store(model, source, store, batch_size=4, progress=False)
    assert exact.folder != low.folder
    assert low[0]["x_T"].dtype == torch.float32
    assert 0 < (low[0]["x_T"] - exact[0]["x_T"]).abs().max() < 0.1


def test_a_source_or_network_of_another_store_is_refused(tmp_path):
    model, source = make_model(), Squares()
    store = make_store(tmp_path, model, source)
    with pytest.raises(ValueError, match=r"image keys of the latent store .* differs"):
        fill_store(model, Squares(9), store, 2)
    model.name = "other"
    with pytest.raises(ValueError, match="tiny in the store, other given"):
        fill_store(model, source, store, 2)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fill_store(model, source, store, 0)


def test_images_of_another_size_than_the_network_are_refused():
    source = Squares()
    source.size = 16
    with pytest.raises(ValueError, match="tiny takes images of 8 px, got 16 px from squares"):
        make_store_key(make_model(), source, 5, 999)


def test_the_bar_counts_images(tmp_path, capsys):
    model, source = make_model(), Squares()
    fill_store(model, source, make_store(tmp_path, model, source), batch_size=4)
    shown = capsys.readouterr().err
    assert "invert squares: 100%" in shown
    assert "10/10" in shown
    assert "img" in shown


if __name__ == "__main__":
    slow = Squares(40, delay=0.1)
    fill_store(make_model(), slow, make_store(Path(sys.argv[1]), make_model(), slow), batch_size=3)
