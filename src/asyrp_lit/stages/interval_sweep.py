"""One direction over a grid of t_edit and t_boost: pictures and metrics of every cell."""

import hashlib
import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn

from asyrp_lit.data.encoded import printable
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.intervals import NEVER, edit_intervals
from asyrp_lit.editing.kept import KeptImages
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.seeds import derive_seeds
from asyrp_lit.hspace.attribute import AVATARS, Attribute
from asyrp_lit.hspace.combine import Scaled, rescale_to_steps
from asyrp_lit.hspace.direction import DirectionInfo, get_space, load_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.hspace.interval import LPIPSCurves, propose_t_boosts, propose_t_edits
from asyrp_lit.inversion.fill import LatentSource, make_store_key
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.losses.clip import FrozenCLIP, choose_templates
from asyrp_lit.losses.directional import compute_cos_text, compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.metrics.sweep import judge_intervals
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.matrix import draw_matrix
from asyrp_lit.plots.save import save_figure
from asyrp_lit.shapes import Images
from asyrp_lit.stages.attributes import find_attribute, list_attribute_files
from asyrp_lit.stages.device import autocast_as, get_precision, pick_device
from asyrp_lit.stages.edit_results import folder_name
from asyrp_lit.stages.latents import build_source

log = logging.getLogger(__name__)


class Swept(NamedTuple):
    """The direction of a sweep."""

    direction: nn.Module
    info: DirectionInfo
    attribute: Attribute

    @property
    def has_texts(self) -> bool:
        """Whether CLIP can judge it; those of ``discover.py`` have none."""
        return self.attribute.src_text != self.attribute.trg_text


def load_swept(cfg: DictConfig, model: HSpaceUNet, grid: tuple[int, ...]) -> Swept:
    """The direction file and what it is about; images and labels as its attribute's file says, if there is one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no direction, one of another base model or of x_t, or a wanted interval is not possible.
    """
    direction, info = load_direction(find_direction(cfg.direction), model.fingerprint(), model.name)
    if get_space(direction) == "x":
        raise ValueError(
            f"direction {cfg.direction} ({info.kind}) moves x_t at one timestep, t = {info.t_start}, so there is no "
            "t_edit for sweep=true to choose: edit.py shows what it does, and with t_boost= what boosting adds"
        )
    for name in ("t_edits", "t_boosts"):
        _check_timesteps(name, cfg[name])
    for t_edit in cfg.t_edits or ():
        if not any(in_editing_phase(t, Interval(t_edit, 0, info.t_start)) for t in grid):
            raise ValueError(f"t_edits: no step edits with {t_edit}, the direction edits from {info.t_start} down")
    known = find_attribute(info.attribute, cfg.model.domain) if info.attribute in list_attribute_files() else None
    labels, where = (known.labels, known.where) if known else (None, None)
    attribute = Attribute(info.attribute, info.src_text, info.trg_text, labels, where)
    return Swept(direction.to(pick_device(cfg)), info, attribute)


def _check_timesteps(name: str, values: Any) -> None:
    if values is None:
        return
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ValueError(f"{name} must be null or a list of timesteps, such as [300,400], got {values!r}")
    for value in values:
        if type(value) is not int or not 0 <= value <= 1000:
            raise ValueError(f"{name} must be whole numbers, 0 to 1000, got {value!r}")


def choose_cells(cfg: DictConfig, swept: Swept, curves: LPIPSCurves, cos_text: float) -> tuple[list[int], list[int]]:
    """Values of t_edit and of t_boost: as given, else from the curves with those that the direction was trained for."""
    info, chosen = swept.info, cfg.interval
    t_edits = cfg.t_edits or {
        info.t_edit,
        *propose_t_edits(curves, chosen.edit_threshold * cos_text, info.t_start),
    }
    t_boosts = cfg.t_boosts or {info.t_boost, *propose_t_boosts(curves, chosen.boost_threshold)}
    return sorted(set(t_edits)), sorted(set(t_boosts))


def sweep_intervals(
    cfg: DictConfig,
    model: HSpaceUNet,
    grid: tuple[int, ...],
    swept: Swept,
    curves: LPIPSCurves,
    clip: FrozenCLIP,
    run: Path,
) -> dict[str, Any]:
    """Edit a few val images in every interval of a grid; a picture an image, and the metrics of each cell.

    What an earlier run has edited is read back.
    """
    info, attribute = swept.info, swept.attribute
    texts = (attribute.src_text, attribute.trg_text) if swept.has_texts else None
    cos_text = compute_cos_text(clip, *texts) if texts else float(cfg.cos_text)
    t_edits, t_boosts = choose_cells(cfg, swept, curves, cos_text)
    panels = build_panels(cfg, swept, clip, [Interval(*pair, info.t_start) for pair in product(t_edits, t_boosts)])
    source = build_source(cfg, "val", attribute)
    keys = source.keys[: cfg.sweep_images]
    log.info("%s: %d images in %d x %d intervals", attribute.name, len(keys), len(t_edits), len(t_boosts))
    with autocast_as(cfg):
        kept = open_kept(cfg, model, source)
        x_0, x_T = load_pairs(cfg, model, source, grid, len(keys), kept)
        direction = Scaled(swept.direction, rescale_to_steps(info.num_steps, cfg.method.num_steps))
        common = (model, x_T, grid, direction, (NEVER, *panels), cfg.inversion_batch_size, kept)
        edits = edit_intervals(*common, derive_seeds(x_0, cfg.seed))
        judge_intervals(x_0, edits, panels, cfg.inversion_batch_size, pick_device(cfg))
    trained = f"trained with t_edit = {info.t_edit}, t_boost = {info.t_boost}, t_start = {info.t_start}"
    names = [f"t_edit = {t}" for t in t_edits], [f"t_boost = {t}" for t in t_boosts]
    for number, key in enumerate(keys):
        cells = torch.stack([edits[interval][number] for interval in panels])
        figure = draw_matrix(
            cells.view(len(t_edits), len(t_boosts), *cells.shape[1:]),
            *names,
            f"{attribute.name}: {texts[0]} → {texts[1]}" if texts else attribute.name,
            f"{printable(key)}   {trained}",
            aside={"source": x_0[number], "reconstruction": edits[NEVER][number]},
        )
        save_figure(figure, run / f"sweep-{number:02d}-{folder_name(key)}.png")
    return describe_sweep(cfg, swept, keys, panels)


def build_panels(
    cfg: DictConfig, swept: Swept, clip: FrozenCLIP, intervals: Sequence[Interval]
) -> dict[Interval, MetricPanel]:
    """The metrics of every cell, with judges in common; without texts CLIP is none of them."""
    attribute = swept.attribute
    templates = choose_templates(cfg.clip.templates)
    text_direction = None
    if swept.has_texts:
        text_direction = compute_text_direction(clip, attribute.src_text, attribute.trg_text, templates)
    judges = Judges(clip, load_lpips(), load_oracle() if cfg.model.domain == AVATARS else None)
    device = pick_device(cfg)
    return {interval: MetricPanel(judges, text_direction, attribute.labels).to(device) for interval in intervals}


def open_kept(cfg: DictConfig, model: HSpaceUNet, source: LatentSource) -> KeptImages:
    """Where the cells of this direction on these images are kept, beside the latent stores."""
    key = make_store_key(model, source, cfg.method.num_steps, cfg.method.t_0, get_precision(cfg))
    about = f"noise of pixels and seed {cfg.seed} ".encode() + find_direction(cfg.direction).read_bytes()
    digest = hashlib.sha256(about).hexdigest()[:12]
    return KeptImages(Path(cfg.paths.latents) / f"sweep-{key.folder_name()}-{digest}")


def load_pairs(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...], number: int, kept: KeptImages
) -> tuple[Images, Images]:
    """The first images of a source and their x_T; of random latents what the network makes of them."""
    device = pick_device(cfg)
    alphas_cumprod = make_alphas_cumprod().to(device)
    known = {name: kept.read(name) for name in ("x_0", "x_T")}
    missing = [index for index in range(number) if not all(index in found for found in known.values())]
    for first in range(0, len(missing), cfg.inversion_batch_size):
        indices = missing[first : first + cfg.inversion_batch_size]
        batch = torch.stack([source[index][0] for index in indices]).to(device)
        if isinstance(source, RandomLatents):
            pair = {"x_0": sample_images(model, batch, grid, alphas_cumprod), "x_T": batch}
        else:
            pair = {"x_0": batch, "x_T": invert_images(model, batch, grid, alphas_cumprod).x_T}
        for name, images in pair.items():
            kept.write(name, indices, images)
            known[name] |= dict(zip(indices, images.float().cpu(), strict=True))
    x_0, x_T = (torch.stack([known[name][index] for index in range(number)]) for name in ("x_0", "x_T"))
    return x_0, x_T


def describe_sweep(
    cfg: DictConfig, swept: Swept, keys: Sequence[str], panels: dict[Interval, MetricPanel]
) -> dict[str, Any]:
    """Settings and the metrics of every cell, logged as a table too."""
    cells = []
    for interval, panel in panels.items():
        metrics = {name: round(float(value), 5) for name, value in panel.compute().items()}
        cells.append({"t_edit": interval.t_edit, "t_boost": interval.t_boost, **metrics})
    shown = [name for name in cells[0] if not name.startswith("reconstruction")]
    log.info("  ".join(shown))
    for cell in cells:
        values = (f"{cell[k]:.3f}" if isinstance(cell[k], float) else str(cell[k]) for k in shown)
        log.info("  ".join(value.rjust(len(name)) for name, value in zip(shown, values, strict=True)))
    return {
        "direction": str(cfg.direction),
        "attribute": swept.info.attribute,
        "trained": {name: getattr(swept.info, name) for name in ("t_edit", "t_boost", "t_start")},
        "images": list(keys),
        "cells": cells,
    }
