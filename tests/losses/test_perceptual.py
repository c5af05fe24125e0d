import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from asyrp_lit.data.avatars.render import render_portrait
from asyrp_lit.data.avatars.traits import sample_traits
from asyrp_lit.losses.perceptual import enlarge_small, load_lpips

ASSET = "src/asyrp_lit/assets/lpips_alex/lpips_alex_fp16.safetensors"


@pytest.fixture(scope="module")
def distance():
    return load_lpips()


@pytest.fixture(scope="module")
def portraits():
    pixels = np.stack([np.asarray(render_portrait(sample_traits("val", i), size=64)) for i in range(3)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.fixture(scope="module")
def asset(request):
    return request.config.rootpath / ASSET


def test_an_image_has_distance_zero_to_itself_and_one_number_per_pair(distance, portraits):
    assert distance(portraits, portraits).tolist() == [0, 0, 0]
    assert (distance(portraits, portraits.flip(0))[[0, 2]] > 0.1).all()


def test_distance_is_symmetric_and_does_not_depend_on_the_batch(distance, portraits):
    forth, back = distance(portraits, portraits.roll(1, 0)), distance(portraits.roll(1, 0), portraits)
    torch.testing.assert_close(forth, back)
    torch.testing.assert_close(forth[:1], distance(portraits[:1], portraits[2:]))


def test_distance_grows_with_blur(distance, portraits):
    sizes = (48, 32, 16, 8)
    blurred = [F.interpolate(F.interpolate(portraits, (s, s), mode="area"), (64, 64)) for s in sizes]
    curve = torch.stack([distance(portraits, x) for x in blurred])
    assert (curve.diff(dim=0) > 0).all()


def test_distance_grows_with_noise(distance, portraits):
    noise = torch.randn(portraits.shape, generator=torch.Generator().manual_seed(0))
    curve = torch.stack([distance(portraits, portraits + level * noise) for level in (0.05, 0.1, 0.2, 0.4, 0.8)])
    assert (curve.diff(dim=0) > 0).all()


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_it_agrees_with_the_lpips_package_and_its_own_heads(distance, portraits, asset):
    official = lpips.LPIPS(net="alex", pretrained=True, pnet_rand=True, verbose=False)
    convolutions = {k.removeprefix("net."): v.float() for k, v in load_file(asset).items() if k.startswith("net.")}
    official.net.load_state_dict(convolutions, strict=True)
    y = portraits.roll(1, 0)
    torch.testing.assert_close(distance(portraits, y), official(portraits, y).flatten(), rtol=1e-5, atol=1e-6)


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    load_lpips()
    assert torch.equal(before, torch.get_rng_state())


def test_it_stays_frozen_and_in_eval_mode_and_passes_gradients_to_images(distance, portraits):
    distance.train()
    assert not any(module.training for module in distance.modules())
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in distance.parameters())
    x = portraits.roll(1, 0).requires_grad_()
    distance(x, portraits).sum().backward()
    assert x.grad.abs().sum() > 0


def test_autocast_does_not_change_a_digit(distance, portraits):
    y = portraits.roll(1, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = distance(portraits, y)
    assert torch.equal(inside, distance(portraits, y))


def test_small_images_are_enlarged_to_a_shorter_edge_of_64_px(distance):
    small = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert enlarge_small(small).shape[-2:] == (64, 96)
    assert enlarge_small(torch.zeros(1, 3, 64, 70)).shape[-2:] == (64, 70)
    torch.testing.assert_close(distance(small, -small), distance(enlarge_small(small), enlarge_small(-small)))


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_with_other_keys_or_shapes_is_refused(tmp_path, asset, change):
    state = load_file(asset)
    if change == "missing":
        del state["lin3.model.1.weight"]
    elif change == "extra":
        state["net.slice6.0.weight"] = torch.zeros(1)
    else:
        state["net.slice1.0.bias"] = torch.zeros(63)
    save_file(state, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=r"wrong.safetensors does not hold the weights of LPIPS AlexNet"):
        load_lpips(tmp_path / "wrong.safetensors")


def test_a_truncated_file_and_a_missing_file_are_named(tmp_path, asset):
    (tmp_path / "cut.safetensors").write_bytes(asset.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut.safetensors are not a readable safetensors file"):
        load_lpips(tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match=r"absent.safetensors"):
        load_lpips(tmp_path / "absent.safetensors")
