"""Steps of the unedited process (DDIM, Song et al. 2021, section 4; Asyrp, Kwon et al. 2023, section 2.1).

Pure functions of tensors. ``alpha_bar_*`` have shape (B, 1, 1, 1) and are 1 for the clean end (t = -1).
"""

import torch

from asyrp_lit.shapes import Coef, Images


def compute_pred_x0(x_t: Images, eps: Images, alpha_bar_t: Coef) -> Images:
    """P_t, the x_0 that ``eps`` points at (DDIM, eq. 9). Never clipped."""
    return (x_t - (1 - alpha_bar_t).sqrt() * eps) / alpha_bar_t.sqrt()


def compute_sigma(alpha_bar_t: Coef, alpha_bar_prev: Coef, eta: float | Coef) -> Coef:
    """Standard deviation of a step (DDIM, eq. 16): 0 for eta = 0, DDPM's for eta = 1."""
    ratio = (1 - alpha_bar_prev) / (1 - alpha_bar_t)
    return eta * ratio.sqrt() * (1 - alpha_bar_t / alpha_bar_prev).clamp(min=0).sqrt()


def compute_dir_xt(eps: Images, alpha_bar_prev: Coef, sigma: Coef) -> Images:
    """D_t, the part of a step that points back at x_t (DDIM, eq. 12)."""
    return (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt() * eps


def step_ddim(
    x_t: Images,
    eps: Images,
    alpha_bar_t: Coef,
    alpha_bar_prev: Coef,
    eta: float | Coef = 0.0,
    noise: Images | None = None,
) -> Images:
    """x_prev from x_t for any eta (DDIM, eq. 12).

    Args:
        x_t: current images.
        eps: predicted noise at x_t.
        alpha_bar_t, alpha_bar_prev: alpha-bar here and where the step goes.
        eta: 0 deterministic, 1 DDPM; one number or one per sample.
        noise: standard normal; ``None`` where sigma is 0.
    """
    sigma = compute_sigma(alpha_bar_t, alpha_bar_prev, eta)
    x_prev = alpha_bar_prev.sqrt() * compute_pred_x0(x_t, eps, alpha_bar_t) + compute_dir_xt(eps, alpha_bar_prev, sigma)
    return x_prev if noise is None else x_prev + sigma * noise


def step_inversion(x_t: Images, eps: Images, alpha_bar_t: Coef, alpha_bar_next: Coef) -> Images:
    """x at the next noisier grid point, eps evaluated at the current one (DDIM, section 4.3).

    It is a deterministic step with the two alphas swapped; from the clean end (alpha-bar 1) too.
    """
    sigma = torch.zeros_like(alpha_bar_t)
    return alpha_bar_next.sqrt() * compute_pred_x0(x_t, eps, alpha_bar_t) + compute_dir_xt(eps, alpha_bar_next, sigma)
