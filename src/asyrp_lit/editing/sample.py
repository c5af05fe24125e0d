"""x_T -> images: the reverse process in its three phases (Asyrp, section 4)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase, make_noise, step_asyrp
from asyrp_lit.diffusion.ddim import step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table

#: Edit at every step, never boost.
EDIT_ALWAYS = Interval(0, 0)


def descend(grid: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Pairs (t, t_prev) from the top of an ascending grid down to t_prev = -1."""
    return zip(reversed(grid), (*reversed(grid[:-1]), -1), strict=True)


def full_timesteps(t: int, x: Images) -> Tensor:
    """t for every sample of a batch, int64."""
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


@torch.inference_mode()
def sample_images(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction | None = None,
    interval: Interval = EDIT_ALWAYS,
    seeds: list[int] | None = None,
) -> Images:
    """Images from latents, edited where a direction is given.

    Costs one encode and two decodes (in one batch) a step for t >= t_edit with a direction, else one of each.

    Args:
        model: the frozen network.
        x_T: latents at ``grid[-1]``, (B, C, S, S).
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table, on the latents' device.
        direction: ``None`` samples without an edit.
        interval: ``t_boost = 0`` never adds noise.
        seeds: one per sample for the boosting noise, which depends on nothing else; ``None`` counts from 0.

    Returns:
        (B, C, S, S), about [-1, 1], not clipped.
    """
    seeds = list(range(len(x_T))) if seeds is None else seeds
    x = x_T
    for t, t_prev in descend(grid):
        steps = full_timesteps(t, x)
        alpha_bar_t = gather_alpha_bar(alphas_cumprod, steps)
        alpha_bar_prev = gather_alpha_bar(alphas_cumprod, torch.full_like(steps, t_prev))
        boosting = in_boosting_phase(t, interval) and t_prev >= 0
        noise = make_noise(seeds, t, tuple(x.shape[1:])).to(x) if boosting else None
        eta = 1.0 if boosting else 0.0
        bottleneck = model.encode(x, steps)
        if direction is None or not in_editing_phase(t, interval):
            x = step_ddim(x, model.decode(bottleneck).to(x), alpha_bar_t, alpha_bar_prev, eta, noise)
            continue
        delta_h = direction(bottleneck.h, bottleneck.temb, steps)
        eps, eps_edit = model.decode_both(bottleneck, delta_h)
        x = step_asyrp(x, eps.to(x), eps_edit.to(x), alpha_bar_t, alpha_bar_prev, eta, noise)
    return x
