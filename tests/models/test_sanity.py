"""The check that a base model denoises."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import load_checkpoint, load_embedded
from asyrp_lit.models.sanity import (
    check_eps_error,
    check_norm_eps,
    compare_settings,
    measure_eps_error,
    regroup_heads,
    shift_sinusoid,
    split_heads,
)

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def portraits():
    source = PortraitSource("val", 2, 64)
    return torch.stack([source[i].x_0 for i in range(2)])


@pytest.fixture(scope="module")
def avatars():
    return load_embedded("ddpmpp_avatars")


@pytest.fixture
def adm(tmp_path):
    tensors = load_file(GOLDENS / "adm.safetensors")
    torch.save({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, tmp_path / "a.pt")

    def load(width):
        return load_checkpoint("adm", tmp_path / "a.pt", tmp_path, None, 32, width, 1e-5)

    return load


def test_the_embedded_model_passes_on_its_own_domain(avatars, portraits):
    assert check_eps_error(avatars, portraits, 0.25) < 0.1


def test_the_error_of_a_blind_network_is_one(avatars, portraits):
    class Blind(HSpaceUNet):
        def forward(self, x_t, t):
            return torch.zeros_like(x_t)

    assert measure_eps_error(Blind(avatars.unet), portraits) == pytest.approx(1, abs=0.02)


def test_a_wrong_sinusoid_and_wrong_images_are_refused(avatars, portraits):
    avatars.unet.time_proj.flip_sin_to_cos = True
    with pytest.raises(ValueError, match=r"model\.max_eps_error=0\.25: a setting is wrong"):
        check_eps_error(avatars, portraits, 0.25)
    avatars.unet.time_proj.flip_sin_to_cos = False
    with pytest.raises(ValueError, match="the images are none that it was trained on"):
        check_eps_error(avatars, -portraits, 0.25)


@pytest.mark.parametrize(("flip", "shift"), [(True, 1), (False, 0)])
def test_a_wrong_sinusoid_is_refused_by_the_one_that_denoises_better(avatars, portraits, flip, shift):
    compare_settings(avatars, portraits)
    with pytest.raises(ValueError, match="denoises better with flip_sin_to_cos=False and freq_shift=1"):
        compare_settings(shift_sinusoid(avatars, flip, shift), portraits)


def test_a_wrong_head_width_of_a_diffusers_folder_is_refused(avatars, portraits):
    with pytest.raises(ValueError, match="denoises better with attention_head_dim=null"):
        compare_settings(split_heads(avatars, 32), portraits)


def test_regrouping_heads_is_loading_with_another_width(adm):
    other, wanted = regroup_heads(adm(16), 16, 32), adm(32)
    x_t, t = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    assert torch.equal(other(x_t, t), wanted(x_t, t))


def test_a_wrong_head_width_is_refused_by_the_one_that_denoises_better(avatars, portraits):
    compare_settings(avatars, portraits, 160)
    wrong = regroup_heads(avatars, 160, 32)
    with pytest.raises(ValueError, match=r"denoises better with model\.num_head_channels=160"):
        compare_settings(wrong, portraits, 32)


@pytest.mark.parametrize(("norm_eps", "refused"), [(1e-5, False), (1e-6, True), (0.1, True)])
def test_a_norm_eps_that_is_not_its_key_styles_is_refused(tmp_path, norm_eps, refused):
    tensors = load_file(GOLDENS / "adm.safetensors")
    torch.save({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}, tmp_path / "a.pt")
    model = load_checkpoint("adm", tmp_path / "a.pt", tmp_path, None, 32, 16, norm_eps)
    with pytest.raises(ValueError, match="are trained with 1e-5: give that") if refused else nullcontext():
        check_norm_eps(model, converted=True)


@pytest.mark.parametrize(("norm_eps", "refused"), [(1e-5, False), (1e-6, False), (0.1, True)])
def test_a_diffusers_folder_may_have_either_norm_eps(avatars, norm_eps, refused):
    model = HSpaceUNet(UNet2DModel(**{**avatars.unet.config, "norm_eps": norm_eps}), "mine")
    with pytest.raises(ValueError, match="with 1e-5 or 1e-6: give that") if refused else nullcontext():
        check_norm_eps(model, converted=False)
