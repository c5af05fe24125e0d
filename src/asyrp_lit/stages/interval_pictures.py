"""What was found of the interval, as pictures: the curves, and P_t along the phases."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from asyrp_lit.data.encoded import printable
from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.inversion.invert import trace_inversion
from asyrp_lit.inversion.profile import LPIPSProfile
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import BOOST, EDIT
from asyrp_lit.plots.interval import Curve, Mark, draw_interval
from asyrp_lit.plots.matrix import Band, draw_matrix
from asyrp_lit.plots.save import save_figure
from asyrp_lit.stages.device import pick_device
from asyrp_lit.stages.latents import open_images

#: Colours of the phases; a step may be in two.
_COLORS = {"edit": EDIT, "boost": BOOST, "edit, boost": "#8e4585", "plain": "#8a8a8a"}


class Findings(NamedTuple):
    """What was measured on which images; ``t_boost`` is ``None`` where x_t never reaches the boost threshold."""

    model: HSpaceUNet
    source: LatentSource
    grid: tuple[int, ...]
    profile: LPIPSProfile
    marks: list[Mark]
    t_boost: int | None


def draw_choice(cfg: DictConfig, findings: Findings, path: Path) -> None:
    """The curves with the attributes."""
    mean, (lower, upper) = findings.profile.average(), findings.profile.find_quartiles()
    pred_x0 = Curve(mean.timesteps, mean.pred_x0, lower.pred_x0, upper.pred_x0)
    x_t = Curve(mean.timesteps, mean.x_t, lower.x_t, upper.x_t)
    chosen = cfg.interval
    title = (
        f"LPIPS along the inversion of {printable(findings.source.name)} by {findings.model.name}: mean and quartiles "
        f"of {mean.num_images} images, {cfg.method.num_steps} steps, "
        f"edit threshold {chosen.edit_threshold:g} · cos_text"
    )
    curves = (pred_x0, x_t, findings.marks, chosen.boost_threshold, findings.t_boost, chosen.t_start)
    save_figure(draw_interval(*curves, title), path)


def draw_strip(cfg: DictConfig, findings: Findings, path: Path) -> None:
    """x_t and P_t of a few images over t, with the phases of the first attribute."""
    model, source, grid, _, marks, t_boost = findings
    t_edit = marks[0].t_edit
    interval = Interval(1001 if t_edit is None else t_edit, t_boost or 0, cfg.interval.t_start)
    columns = choose_columns(grid[:-1], t_edit, cfg.strip_columns)
    numbers = range(min(cfg.strip_images, len(source)))
    device = pick_device(cfg)
    x_0 = open_images(cfg, model, source, grid)(numbers).to(device)
    points = [p for p in trace_inversion(model, x_0, grid, make_alphas_cumprod().to(device)) if p.t in columns]
    cells = torch.stack([torch.stack([p.x_t, p.pred_x0], dim=1).flatten(0, 1) for p in points], dim=1)
    chosen = "t_edit is never reached" if t_edit is None else f"t_edit = {t_edit}"
    figure = draw_matrix(
        cells.float().cpu(),
        ["x_t", "P_t"] * len(numbers),
        [f"t = {t}" for t in columns],
        f"{marks[0].name}: {chosen}, t_boost = {t_boost or 0}, t_start = {interval.t_start}",
        "x_t: the image at t of the inversion   P_t: the x_0 that the network predicts from it",
        groups=[printable(source.keys[number]) for number in numbers],
        bands=find_bands(columns, interval),
    )
    save_figure(figure, path)


def choose_columns(timesteps: Sequence[int], t_edit: int | None, number: int) -> list[int]:
    """Evenly spaced timesteps, both ends among them; ``t_edit`` takes the place of the nearest."""
    number = min(number, len(timesteps))
    chosen = [timesteps[round(k * (len(timesteps) - 1) / max(number - 1, 1))] for k in range(number)]
    if t_edit is not None:
        nearest = min(range(number), key=lambda k: abs(chosen[k] - t_edit))
        chosen[nearest] = t_edit
    return chosen


def name_phase(t: int, interval: Interval) -> str:
    """Edit, boost, both or plain."""
    phases = {"edit": in_editing_phase(t, interval), "boost": in_boosting_phase(t, interval)}
    return ", ".join(name for name, inside in phases.items() if inside) or "plain"


def find_bands(columns: Sequence[int], interval: Interval) -> list[Band]:
    """Neighbouring columns of one phase."""
    bands, first = [], 0
    for phase, together in groupby(columns, key=lambda t: name_phase(t, interval)):
        last = first + len(list(together)) - 1
        bands.append(Band(first, last, phase, _COLORS[phase]))
        first = last + 1
    return bands
