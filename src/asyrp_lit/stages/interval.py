"""From ``cfg`` to the interval of an edit, and the LPIPS curves behind it."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval
from asyrp_lit.hspace.published import PUBLISHED_IMAGE_SIZE, load_published_curves
from asyrp_lit.inversion.fill import LatentSource, make_store_key
from asyrp_lit.inversion.profile import load_curves, measure_lpips_curves, save_curves
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import draw_lpips_curves
from asyrp_lit.plots.save import save_figure
from asyrp_lit.stages.device import pick_device
from asyrp_lit.stages.latents import load_first_images

log = logging.getLogger(__name__)


def measure_curves(cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]) -> LPIPSCurves:
    """LPIPS curves of the first images of a source, kept beside the stores."""
    num_images = min(max(1, cfg.interval.num_images), len(source))
    key = make_store_key(model, source, cfg.method.num_steps, cfg.method.t_0)
    path = Path(cfg.paths.latents) / f"lpips-{num_images}-{key.folder_name()}.json"
    if curves := load_curves(path):
        return curves
    device = pick_device(cfg)
    x_0 = load_first_images(cfg, model, source, grid, num_images).to(device)
    curves = measure_lpips_curves(model, x_0, grid, make_alphas_cumprod().to(device), load_lpips().to(device))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_curves(path, curves)
    return curves


def choose_curves(cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]) -> LPIPSCurves:
    """The published curves of the data set where it has some and ``interval.kind`` is lpips, else measured ones."""
    published = OmegaConf.select(cfg, "data.curves")
    if cfg.interval.kind == "measured" or published is None:
        return measure_curves(cfg, model, source, grid)
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
    """The interval, and where it is from LPIPS curves their picture in the run folder.

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
