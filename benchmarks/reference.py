"""The loops that ``throughput.py`` measures against: the work in the order in which the released research code does it.

One image at a time, float32: a whole reconstruction after every inversion, the unedited trajectory by passes of its
own, CLIP on the source image at every step, both decoders down to the last step, one strength after the other. Written
for this comparison; frozen weights get no gradients here either, so that the rest alone is compared.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase, step_asyrp
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim, step_inversion
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import directional_cosine, directional_loss, reconstruction_loss
from asyrp_lit.models.hspace_unet import HSpaceUNet

Grid = tuple[int, ...]


def gather(table: torch.Tensor, t: int, t_to: int) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha-bar of one image here and where its step goes."""
    steps = torch.tensor([t, t_to], device=table.device)
    return gather_alpha_bar(table, steps[:1]), gather_alpha_bar(table, steps[1:])


def descend(grid: Grid) -> list[tuple[int, int]]:
    """Pairs (t, t_prev) from the noisiest down."""
    return list(zip(reversed(grid), (*reversed(grid[:-1]), -1), strict=True))


def invert(model: HSpaceUNet, x_0: torch.Tensor, grid: Grid, table: torch.Tensor) -> torch.Tensor:
    """x_T of every image, each followed by its reconstruction, which nobody asked for: 2 n - 1 passes an image."""
    found = []
    for image in x_0.split(1):
        x = image
        with torch.no_grad():
            for t, t_next in pairwise(grid):
                eps = model(x, torch.tensor([t], device=x.device))
                x = step_inversion(x, eps, *gather(table, t, t_next))
            found.append(x)
            for t, t_prev in descend(grid):
                eps = model(x, torch.tensor([t], device=x.device))
                x = step_ddim(x, eps, *gather(table, t, t_prev))
    return torch.cat(found)


def train(
    model: HSpaceUNet,
    clip: FrozenCLIP,
    f_t: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Sequence[tuple[torch.Tensor, torch.Tensor]],
    text_direction: torch.Tensor,
    w_l1: float,
    grid: Grid,
    interval: Interval,
    table: torch.Tensor,
) -> None:
    """One pass over pairs (x_0, x_T): two encodes, three decodes and two CLIP passes an update."""
    for x_0, x_T in images:
        x = x_source = x_T
        for t, t_prev in descend(grid):
            if not in_editing_phase(t, interval):
                break
            steps, alphas = torch.tensor([t], device=x.device), gather(table, t, t_prev)
            with torch.no_grad():
                eps_source = model(x_source, steps)
                pred_source = compute_pred_x0(x_source, eps_source, alphas[0])
                bottleneck = model.encode(x, steps)
                eps = model.decode(bottleneck)
                source = clip.encode_images(x_0)
            eps_edit = model.decode(bottleneck, f_t(bottleneck.h, bottleneck.temb, steps))
            pred_edit = compute_pred_x0(x, eps_edit, alphas[0])
            cosine = directional_cosine(clip.encode_images(pred_edit), source, text_direction)
            loss = directional_loss(cosine) + w_l1 * reconstruction_loss(pred_edit, pred_source)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            x = step_asyrp(x, eps, eps_edit.detach(), *alphas)
            x_source = step_ddim(x_source, eps_source, *alphas)


def edit(
    model: HSpaceUNet,
    f_t: Direction,
    x_T: torch.Tensor,
    strengths: Sequence[float],
    grid: Grid,
    interval: Interval,
    table: torch.Tensor,
) -> torch.Tensor:
    """Every image at every strength, one after the other: n encodes and 2 n decodes a picture."""
    found = []
    for strength in strengths:
        for image in x_T.split(1):
            x = image
            with torch.no_grad():
                for t, t_prev in descend(grid):
                    steps = torch.tensor([t], device=x.device)
                    bottleneck = model.encode(x, steps)
                    eps = model.decode(bottleneck)
                    delta_h = strength * f_t(bottleneck.h, bottleneck.temb, steps)
                    eps_edit = model.decode(bottleneck, delta_h)
                    x = step_asyrp(
                        x, eps, eps_edit if in_editing_phase(t, interval) else eps, *gather(table, t, t_prev)
                    )
            found.append(x)
    return torch.cat(found)
