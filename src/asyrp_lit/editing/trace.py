"""h along the unedited trajectory: what directions are found in without a text."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.ddim import step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.editing.sample import descend, full_timesteps
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import BottleneckH, Images, Table


class TracePoint(NamedTuple):
    """One step of a trajectory.

    Attributes:
        t: the timestep.
        x_t: the images there.
        h: what the encoder makes of them.
    """

    t: int
    x_t: Images
    h: BottleneckH


@torch.no_grad()
def trace_h(
    model: HSpaceUNet, x_T: Images, grid: tuple[int, ...], alphas_cumprod: Table, interval: Interval
) -> Iterator[TracePoint]:
    """The steps of the unedited process (DDIM, eta = 0) that lie in the interval, from the noisiest down.

    A step takes a pass, the last one wanted half of one; nothing is computed below the interval.

    Args:
        model: the frozen network.
        x_T: latents at ``grid[-1]``.
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table, on the latents' device.
        interval: t_start and t_edit; nothing is boosted.
    """
    x = x_T
    wanted = [t for t in grid if in_editing_phase(t, interval)]
    for t, t_prev in descend(grid) if wanted else ():
        steps = full_timesteps(t, x)
        bottleneck = model.encode(x, steps)
        if t in wanted:
            yield TracePoint(t, x, bottleneck.h.float())
        if t <= wanted[0]:
            return
        eps = model.decode(bottleneck).to(x)
        alphas = (gather_alpha_bar(alphas_cumprod, at) for at in (steps, torch.full_like(steps, t_prev)))
        x = step_ddim(x, eps, *alphas)
