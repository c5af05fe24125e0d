"""DDIM inversion, x_0 -> x_T (Song et al. 2021, section 4.3), and P_t of the way back."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim, step_inversion
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Coef, Images, Table

PredX0 = Float[Tensor, "batch steps channels height width"]


class InversionResult(NamedTuple):
    """What inversion finds: ``x_T``, and P_t of the unedited way back at the wanted timesteps, if any."""

    x_T: Images
    pred_x0: PredX0 | None


class InversionPoint(NamedTuple):
    """Where an inversion is: ``x_t``, and P_t as the network sees it from there."""

    t: int
    x_t: Images
    pred_x0: Images


def _predict_eps(model: HSpaceUNet, x_t: Images, t: int) -> Images:
    """Eps in float32, also where the passes are in a lower precision."""
    eps: Images = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
    return eps.float()


def _gather_pair(alphas_cumprod: Table, t: int, t_to: int, x_t: Images) -> tuple[Coef, Coef]:
    """alpha-bar here and where the step goes."""
    steps = torch.tensor([[t], [t_to]], device=x_t.device).expand(2, len(x_t))
    return gather_alpha_bar(alphas_cumprod, steps[0]), gather_alpha_bar(alphas_cumprod, steps[1])


@torch.no_grad()
def invert_images(
    model: HSpaceUNet, x_0: Images, grid: Sequence[int], alphas_cumprod: Table, keep_pred_x0: Sequence[int] = ()
) -> InversionResult:
    """x_T by DDIM steps upwards, eps evaluated at the lower t of each (DDIM, section 4.3).

    Takes ``len(grid) - 1`` passes an image; with ``keep_pred_x0`` those of ``sample_pred_x0`` on top.

    Args:
        model: the frozen network.
        x_0: images in [-1, 1], taken to be at ``grid[0]``.
        grid: ascending timesteps, at least 2.
        alphas_cumprod: the schedule, on the device of the images.
        keep_pred_x0: timesteps at which P_t of the unedited sampling from x_T is wanted.
    """
    x_t = x_0
    for t, t_next in pairwise(grid):
        eps = _predict_eps(model, x_t, t)
        x_t = step_inversion(x_t, eps, *_gather_pair(alphas_cumprod, t, t_next, x_t))
    pred_x0 = sample_pred_x0(model, x_t, keep_pred_x0, grid, alphas_cumprod) if keep_pred_x0 else None
    return InversionResult(x_t, pred_x0)


@torch.no_grad()
def trace_inversion(
    model: HSpaceUNet, x_0: Images, grid: Sequence[int], alphas_cumprod: Table
) -> Iterator[InversionPoint]:
    """x_t and P_t at every grid point but the last, on the way up; arguments as for ``invert_images``.

    Takes ``len(grid) - 1`` passes an image.
    """
    x_t = x_0
    for t, t_next in pairwise(grid):
        eps = _predict_eps(model, x_t, t)
        alphas = _gather_pair(alphas_cumprod, t, t_next, x_t)
        yield InversionPoint(t, x_t, compute_pred_x0(x_t, eps, alphas[0]))
        x_t = step_inversion(x_t, eps, *alphas)


@torch.no_grad()
def sample_pred_x0(
    model: HSpaceUNet, x_T: Images, timesteps: Sequence[int], grid: Sequence[int], alphas_cumprod: Table
) -> PredX0:
    """P_t of the unedited deterministic sampling from x_T, the other side of training's L1 term (Asyrp, section 3.3).

    Stops at the lowest wanted timestep, so it takes one pass an image for each grid point from there up: 40 for
    t = 0 on a grid of 40, as much again as the inversion.

    Args:
        model: the frozen network.
        x_T: images at ``grid[-1]``.
        timesteps: where P_t is wanted.
        grid: ascending timesteps.
        alphas_cumprod: the schedule, on the device of the images.

    Returns:
        P_t in the order of ``timesteps``, unclipped.

    Raises:
        ValueError: no timestep, or one off the grid.
    """
    if not timesteps or not set(timesteps) <= set(grid):
        raise ValueError(f"timesteps must be one or more of the time grid {tuple(grid)}, got {tuple(timesteps)}")
    found: dict[int, Images] = {}
    x_t = x_T
    descending = [t for t in reversed(grid) if t >= min(timesteps)]
    for t, t_prev in pairwise([*descending, -1]):
        eps = _predict_eps(model, x_t, t)
        alphas = _gather_pair(alphas_cumprod, t, t_prev, x_t)
        if t in timesteps:
            found[t] = compute_pred_x0(x_t, eps, alphas[0])
        x_t = step_ddim(x_t, eps, *alphas)
    return torch.stack([found[t] for t in timesteps], dim=1)
