"""From ``cfg`` to the interval of an edit, and the LPIPS curves behind it."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval
from asyrp_lit.hspace.published import PUBLISHED_IMAGE_SIZE, load_published_curves
from asyrp_lit.inversion.fill import LatentSource, make_store_key
from asyrp_lit.inversion.profile import LPIPSProfile, profile_images
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import draw_lpips_curves
from asyrp_lit.plots.save import save_figure
from asyrp_lit.stages.device import find_rank, pick_device
from asyrp_lit.stages.latents import open_images

log = logging.getLogger(__name__)


def count_profiled(cfg: DictConfig, source: LatentSource) -> int:
    """How many images of a source LPIPS curves are measured on: ``interval.num_images``, or all if it has fewer.

    Raises:
        ValueError: it is no whole number above 0.
    """
    wanted = cfg.interval.num_images
    if type(wanted) is not int or wanted < 1:
        raise ValueError(f"interval.num_images must be a whole number, 1 or more, got {wanted!r}")
    return min(wanted, len(source))


def measure_profile(cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]) -> LPIPSProfile:
    """LPIPS along the inversion of the first images of a source; every batch is kept beside the stores."""
    key = make_store_key(model, source, cfg.method.num_steps, cfg.method.t_0)
    device = pick_device(cfg)
    return profile_images(
        model,
        open_images(cfg, model, source, grid),
        count_profiled(cfg, source),
        Path(cfg.paths.latents) / f"lpips-{key.folder_name()}",
        grid,
        make_alphas_cumprod().to(device),
        load_lpips().to(device),
        cfg.inversion_batch_size,
    )


def choose_curves(cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]) -> LPIPSCurves:
    """The published curves of the data set where it has some and ``interval.kind`` is lpips, else measured ones."""
    published = OmegaConf.select(cfg, "data.curves")
    if cfg.interval.kind == "measured" or published is None:
        return measure_profile(cfg, model, source, grid).average()
    log.info("interval from the published LPIPS curves of %s; interval=measured profiles anew", published)
    if cfg.model.image_size != PUBLISHED_IMAGE_SIZE:
        size = cfg.model.image_size
        log.warning("they are of images of %d px, not %d px: interval=measured fits better", PUBLISHED_IMAGE_SIZE, size)
    return load_published_curves(published)


def check_edits(interval: Interval, grid: tuple[int, ...]) -> Interval:
    """The interval, if any step of the grid lies in it.

    Raises:
        ValueError: none does.
    """
    if any(in_editing_phase(t, interval) for t in grid):
        return interval
    raise ValueError(
        f"no step edits: the interval is {interval.t_start} >= t >= t_edit = {interval.t_edit}, the timesteps are "
        f"{grid[0]} to {grid[-1]}; lower interval.t_edit (or interval.edit_threshold) or raise interval.t_start"
    )


def build_interval(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...], cos_text: float, run: Path
) -> Interval:
    """The interval, and where it is from LPIPS curves their picture in the run folder, by the first process.

    Raises:
        ValueError: the kind does not exist, or nothing lies in the interval.
    """
    chosen = cfg.interval
    if chosen.kind == "fixed":
        return check_edits(check_interval(chosen.t_edit, chosen.t_boost, chosen.t_start), grid)
    if chosen.kind not in ("lpips", "measured"):
        raise ValueError(f"interval.kind must be fixed, lpips or measured, got {chosen.kind!r}")
    curves = choose_curves(cfg, model, source, grid)
    t_edit, t_boost, _ = choose_interval(curves, cos_text, chosen.edit_threshold, chosen.boost_threshold)
    interval = check_edits(check_interval(t_edit, t_boost, chosen.t_start), grid)
    if find_rank().number:
        return interval
    figure = draw_lpips_curves(
        curves.timesteps,
        curves.pred_x0,
        curves.x_t,
        chosen.edit_threshold * cos_text,
        chosen.boost_threshold,
        *interval,
    )
    save_figure(figure, run / "interval.png")
    return interval
