"""Agreement with the released Asyrp code on the golden vectors (tests/goldens/README.md)."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase, step_asyrp
from asyrp_lit.diffusion.ddim import step_ddim, step_inversion
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.editing import sample as sample_module
from asyrp_lit.editing.plan import edit_latents, make_plan
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.hspace.combine import Combined
from asyrp_lit.hspace.direction import DirectionInfo
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta
from asyrp_lit.models.convert_adm import config_from_adm, convert_adm_state_dict
from asyrp_lit.models.convert_ddpm import config_from_ddpm, convert_ddpm_state_dict
from asyrp_lit.models.hspace_unet import HSpaceUNet

GOLDENS = Path(__file__).parents[1] / "goldens"


class Golden(NamedTuple):
    meta: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def network(self, **overrides: Any) -> HSpaceUNet:
        is_ddpm = self.meta["family"] == "ddpm"
        make_config = config_from_ddpm if is_ddpm else config_from_adm
        convert = convert_ddpm_state_dict if is_ddpm else convert_adm_state_dict
        config = make_config(**self.meta["constructor"]) | overrides
        unet = UNet2DModel(**config)
        unet.load_state_dict(convert(self.part("model."), config))
        return HSpaceUNet(unet)

    def f_t(self, prefix: str, use_time: bool = True, scale: float = 1.0) -> nn.Module:
        scaled = tuple(self.meta["probe"]["scaled"])
        weights = {k: v * (scale if k.startswith(scaled) else 1) for k, v in self.part(prefix).items()}
        layout = DDPMDelta if self.meta["family"] == "ddpm" else ADMDelta
        f_t = layout(h_channels=64, temb_channels=128, use_time=use_time)
        f_t.load_state_dict(weights)
        return f_t.requires_grad_(False)


@pytest.fixture(scope="module", params=["ddpm", "iddpm", "adm"])
def golden(request):
    path = GOLDENS / request.param
    return Golden(json.loads(path.with_suffix(".json").read_text()), load_file(path.with_suffix(".safetensors")))


def at(t: int) -> Tensor:
    return torch.full((2,), t)


def alpha_bar(t: int) -> Tensor:
    return gather_alpha_bar(make_alphas_cumprod(), at(t))


def sample(golden: Golden, interval: Interval) -> Tensor:
    """Asyrp from x_lat down the grid, as the released loop does it."""
    network, f_0 = golden.network(), golden.f_t("delta.")
    noise = dict(zip(golden.meta["boost_noise_t"], golden.tensors["boost_noise"], strict=True))
    x_t, grid = golden.tensors["x_lat"], golden.meta["grid"]
    for t, t_prev in zip(grid[::-1], [*grid[-2::-1], -1], strict=True):
        bottleneck = network.encode(x_t, at(t))
        eps = eps_edit = network.decode(bottleneck)
        if in_editing_phase(t, interval):
            eps_edit = network.decode(bottleneck, f_0(bottleneck.h, bottleneck.temb, at(t)))
        eta, z = (1.0, noise[t]) if in_boosting_phase(t, interval) else (0.0, None)
        x_t = step_asyrp(x_t, eps, eps_edit, alpha_bar(t), alpha_bar(t_prev), eta, z)
    return x_t


def assert_relatively_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Compared with the largest magnitude: states of these networks reach 20."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("row", range(3))
def test_one_step_matches_the_released_networks(golden, row):
    network, f_0, f_1 = golden.network(), golden.f_t("delta."), golden.f_t("delta1.")
    t, (keep, first, second) = at(golden.meta["t_list"][row]), golden.meta["eps_edited2"]
    bottleneck = network.encode(golden.tensors["x_t"], t)
    h, _, temb = bottleneck
    delta_h = f_0(h, temb, t)
    actual = {
        "temb": temb[0],
        "middle_h": h,
        "eps": network.decode(bottleneck),
        "delta_h": delta_h,
        "eps_edited": network.decode(bottleneck, delta_h),
        "eps_edited2": network.decode(bottleneck._replace(h=keep * h), first * delta_h + second * f_1(h, temb, t)),
    }
    assert_close(actual, {name: golden.tensors[name][row] for name in actual}, atol=1e-5, rtol=0)


@pytest.mark.parametrize("golden", ["iddpm", "adm"], indirect=True)
def test_learned_sigma_is_cut_off(golden):
    network, x_t, t = golden.network(), golden.tensors["x_t"], at(golden.meta["t_list"][1])
    eps, logvar = network.unet(x_t, t).sample.chunk(2, dim=1)
    assert torch.equal(network(x_t, t), eps)
    assert_close(logvar, golden.tensors["logvar_learned"][1], atol=1e-5, rtol=0)


def test_probes_of_the_unet_match(golden):
    """In float64, alike on every CPU. The released float32 is itself 1.6e-5 from it where h is 13, 3e-6 on average."""
    x = golden.tensors["probe_x"].double()
    bottleneck = (network := golden.network().double()).encode(x, at(golden.meta["probe"]["t"]))
    assert_close(bottleneck.h.float(), golden.tensors["probe_middle_h"], atol=2e-5, rtol=0)
    assert (bottleneck.h - golden.tensors["probe_middle_h"]).square().mean().sqrt() < 5e-6
    assert_close(network.decode(bottleneck).float(), golden.tensors["probe_eps"], atol=1e-5, rtol=0)


def test_probes_notice_a_wrong_norm_eps(golden):
    right = golden.network()
    wrong = golden.network(norm_eps={1e-6: 1e-5, 1e-5: 1e-6}[right.unet.config.norm_eps])
    eps = wrong(golden.tensors["probe_x"], at(golden.meta["probe"]["t"]))
    with pytest.raises(AssertionError):
        assert_relatively_close(eps, golden.tensors["probe_eps"], tolerance=0.01)


@pytest.mark.parametrize(("use_time", "name"), [(True, "probe_delta_out"), (False, "probe_delta_out_notemb")])
def test_probes_of_f_t_match(golden, use_time, name):
    probe, inputs = golden.meta["probe"], golden.tensors["probe_delta_in"]
    t = at(probe["t"])
    temb = golden.network().encode(golden.tensors["probe_x"], t).temb
    delta_h = golden.f_t("delta.", use_time, probe["scale"])(inputs, temb, t)
    assert_close(delta_h, golden.tensors[name], atol=2e-6, rtol=0)


def test_inversion_chain_matches(golden):
    network, x_t, grid = golden.network(), golden.tensors["x0"], golden.meta["grid"]
    assert make_time_grid(len(grid)) == tuple(grid)
    for t, t_next in pairwise(grid):
        x_t = step_inversion(x_t, network(x_t, at(t)), alpha_bar(t), alpha_bar(t_next))
    assert_relatively_close(x_t, golden.tensors["x_lat"])


def test_unedited_chain_matches(golden):
    network, x_t, grid = golden.network(), golden.tensors["x_lat"], golden.meta["grid"]
    for t, t_prev in zip(grid[::-1], [*grid[-2::-1], -1], strict=True):
        x_t = step_ddim(x_t, network(x_t, at(t)), alpha_bar(t), alpha_bar(t_prev))
    assert_relatively_close(x_t, golden.tensors["rec_final"])


def test_edited_chain_matches(golden):
    actual = sample(golden, Interval(t_edit=golden.meta["t_edit"], t_boost=0))
    assert_relatively_close(actual, golden.tensors["edit_final"])


def test_boosted_chain_matches(golden):
    actual = sample(golden, Interval(golden.meta["t_edit"], golden.meta["t_boost"]))
    assert_relatively_close(actual, golden.tensors["boost_final"])


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("row", range(3))
def test_a_sum_of_directions_is_sampled_as_the_released_one(golden, row, normalise):
    """Released code keeps 0.9 of h as well, here a third direction; in float64, for eps is read back from x_prev."""
    t, (keep, *strengths) = golden.meta["t_list"][row], golden.meta["eps_edited2"]
    network, x_t = HSpaceUNet(golden.network().unet.double()), golden.tensors["x_t"].double()
    directions = [golden.f_t("delta.").double(), golden.f_t("delta1.").double(), lambda h, temb, t: h]
    row_of_strengths = [s * len(directions) ** 0.5 if normalise else s for s in (*strengths, keep - 1)]
    combined = Combined(directions, [row_of_strengths], normalise)
    alphas_cumprod = make_alphas_cumprod().double()
    x_prev = sample_images(network, x_t, (t,), alphas_cumprod, combined)  # of one step: P_t(eps_edit)
    eps_edit = (x_t - alphas_cumprod[t].sqrt() * x_prev) / (1 - alphas_cumprod[t]).sqrt()
    assert_close(eps_edit.float(), golden.tensors["eps_edited2"][row], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("t_boost", "name"), [(0, "edit_final"), (200, "boost_final")])
def test_a_plan_edits_and_boosts_as_the_released_code(golden, monkeypatch, t_boost, name):
    noise = dict(zip(golden.meta["boost_noise_t"], golden.tensors["boost_noise"], strict=True))
    monkeypatch.setattr(sample_module, "make_noise", lambda seeds, t, shape: noise[t].repeat(len(seeds) // 2, 1, 1, 1))
    names = dict.fromkeys(("attribute", "src_text", "trg_text", "base_model", "base_fingerprint"), "any")
    info = DirectionInfo("f_t", {}, **names, t_edit=golden.meta["t_edit"], t_boost=t_boost, num_steps=8)
    plan = make_plan([(golden.f_t("delta."), info)])
    plain, edited = edit_latents(golden.network(), golden.tensors["x_lat"], plan, [None, (1.0,)]).chunk(2)
    assert_relatively_close(plain, golden.tensors["rec_final"])
    assert_relatively_close(edited, golden.tensors[name])


def test_alphas_cumprod_are_the_released_ones(golden):
    assert_close(make_alphas_cumprod(), golden.tensors["alphas_cumprod"], atol=1e-7, rtol=1e-6)
