"""Noise schedule and time grid (DDPM, Ho et al. 2020; DDIM, Song et al. 2021; Asyrp, Kwon et al. 2023).

The Asyrp and DDIM papers write alpha_t for what DDPM calls alpha-bar_t. Here ``alphas_cumprod`` is the whole table
and ``alpha_bar_t`` are its values gathered at t.
"""

import torch
from torch import Tensor

from asyrp_lit.shapes import Coef, Images, Table, Timesteps

NUM_TRAIN_TIMESTEPS = 1000


def make_alphas_cumprod(
    num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Table:
    """alpha-bar for betas that grow linearly (DDPM, section 4): cumprod(1 - beta), float32, in (0, 1)."""
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64).float()
    return torch.cumprod(1.0 - betas, dim=0)


def make_time_grid(num_steps: int, t_0: int = NUM_TRAIN_TIMESTEPS - 1) -> tuple[int, ...]:
    """Ascending timesteps from 0 to ``t_0`` as the released Asyrp code spaces them: 0, 25, 51, ..., 999 for 40.

    Args:
        num_steps: grid points, 2 to ``t_0 + 1``.
        t_0: the noisiest timestep, 1 to 999.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 1 <= t_0 < NUM_TRAIN_TIMESTEPS:
        raise ValueError(f"t_0 must be 1 to {NUM_TRAIN_TIMESTEPS - 1}, got {t_0}")
    if not 2 <= num_steps <= t_0 + 1:
        raise ValueError(f"num_steps must be 2 to t_0 + 1 = {t_0 + 1}, got {num_steps}")
    fractions = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    return tuple(int(t) for t in (fractions * t_0 + 1e-6).long())


def gather_alpha_bar(alphas_cumprod: Table, t: Timesteps) -> Coef:
    """alpha-bar at ``t``, shape (B, 1, 1, 1); exactly 1 where t = -1 (clean)."""
    gathered = alphas_cumprod[t.clamp(min=0)]
    return torch.where(t >= 0, gathered, torch.ones_like(gathered)).view(-1, 1, 1, 1)


def add_noise(x_0: Images, eps: Images, alpha_bar_t: Coef) -> Images:
    """x_t drawn from q(x_t | x_0) with the given noise (DDPM, eq. 4)."""
    return alpha_bar_t.sqrt() * x_0 + (1 - alpha_bar_t).sqrt() * eps


def compute_snr(alpha_bar_t: Tensor) -> Tensor:
    """Signal-to-noise ratio alpha-bar / (1 - alpha-bar) (Variational Diffusion Models, section 3.1)."""
    return alpha_bar_t / (1 - alpha_bar_t)
