"""LPIPS curves along the inversion, from which t_edit and t_boost are chosen (Asyrp, section 4)."""

import json
import os
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asyrp_lit.diffusion.ddim import compute_pred_x0, step_inversion
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.hspace.interval import LPIPSCurves
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table


@torch.inference_mode()
def measure_lpips_curves(
    model: HSpaceUNet, x_0: Images, grid: tuple[int, ...], alphas_cumprod: Table, lpips: nn.Module
) -> LPIPSCurves:
    """Mean LPIPS(x_0, P_t) and LPIPS(x_0, x_t) at every grid point but the last.

    Costs ``len(grid) - 1`` U-Net passes an image.

    Args:
        model: the frozen network.
        x_0: images in [-1, 1], (B, 3, S, S).
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table.
        lpips: (B, 3, S, S) twice -> (B,).
    """
    x, pred_x0_curve, x_t_curve = x_0, [], []
    bar = tqdm(pairwise(grid), total=len(grid) - 1, desc="LPIPS curves", unit="step")
    for t, t_next in bar:
        steps = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        alpha_bar_t = gather_alpha_bar(alphas_cumprod, steps)
        eps = model(x, steps)
        x_t_curve.append(_mean(lpips(x_0, x)))
        pred_x0_curve.append(_mean(lpips(x_0, compute_pred_x0(x, eps, alpha_bar_t))))
        x = step_inversion(x, eps, alpha_bar_t, gather_alpha_bar(alphas_cumprod, torch.full_like(steps, t_next)))
    return LPIPSCurves(tuple(grid[:-1]), tuple(pred_x0_curve), tuple(x_t_curve), len(x_0))


def _mean(distances: Tensor) -> float:
    return round(float(distances.mean()), 5)


def load_curves(path: Path) -> LPIPSCurves | None:
    """Curves kept earlier, or ``None`` where there is no such file."""
    return LPIPSCurves.from_dict(json.loads(path.read_text())) if path.exists() else None


def save_curves(path: Path, curves: LPIPSCurves) -> None:
    """Keep curves as JSON, all of it or nothing."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(curves.to_dict()))
    temporary.replace(path)
