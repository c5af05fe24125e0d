"""The asymmetric reverse process (Asyrp, Kwon et al. 2023, section 3.1) and its phases (section 4)."""

from typing import NamedTuple

import torch
from torch import Tensor

from asyrp_lit.diffusion.ddim import compute_dir_xt, compute_pred_x0, compute_sigma
from asyrp_lit.shapes import Coef, Images


def step_asyrp(
    x_t: Images,
    eps: Images,
    eps_edit: Images,
    alpha_bar_t: Coef,
    alpha_bar_prev: Coef,
    eta: float | Coef = 0.0,
    noise: Images | None = None,
) -> Images:
    """x_prev with the edited noise in P_t only (Asyrp, eq. 5): sqrt(abar_prev) P_t(eps_edit) + D_t(eps) + sigma z.

    Args:
        x_t: current images.
        eps: noise predicted from h.
        eps_edit: noise predicted from h + delta_h.
        alpha_bar_t, alpha_bar_prev: alpha-bar here and where the step goes.
        eta: 0 deterministic, 1 DDPM; one number or one per sample.
        noise: standard normal; ``None`` where sigma is 0.
    """
    sigma = compute_sigma(alpha_bar_t, alpha_bar_prev, eta)
    pred_x0_edit = compute_pred_x0(x_t, eps_edit, alpha_bar_t)
    x_prev = alpha_bar_prev.sqrt() * pred_x0_edit + compute_dir_xt(eps, alpha_bar_prev, sigma)
    return x_prev if noise is None else x_prev + sigma * noise


class Interval(NamedTuple):
    """The phases of the process: edit for t_start >= t >= t_edit, else plain DDIM, eta = 1 for t < t_boost.

    ``t_edit = 0`` edits to the end, ``t_boost = 0`` never boosts. Both are at least 0. The paper edits from T on, as
    does ``t_start = 1000``; a lower one leaves the noisiest steps unedited.
    """

    t_edit: int
    t_boost: int
    t_start: int = 1000


def in_editing_phase(t: int | Tensor, interval: Interval) -> bool | Tensor:
    """Whether t lies in the editing interval [t_edit, t_start]."""
    return (t >= interval.t_edit) & (t <= interval.t_start)


def in_boosting_phase(t: int | Tensor, interval: Interval) -> bool | Tensor:
    """Whether t lies in the quality boosting interval [0, t_boost)."""
    return t < interval.t_boost


def make_noise(seeds: list[int], t: int, shape: tuple[int, ...]) -> Images:
    """Boosting noise that depends on a sample's own seed and t only, never on its batch; float32 on the CPU.

    Args:
        seeds: one per sample.
        t: the timestep, 0 to 999.
        shape: (C, H, W).
    """
    generators = [torch.Generator().manual_seed((seed * 1009 + t) % 2**63) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])
