"""The interval, looked at: LPIPS curves, t_edit of attributes, what the choice shows, and edits over a grid of it."""

import logging
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import seed_everything
from omegaconf import DictConfig

from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.hspace.attribute import AVATARS, Attribute
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, find_first_crossing
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import compute_cos_text
from asyrp_lit.plots.interval import Mark
from asyrp_lit.stages.attributes import find_attributes
from asyrp_lit.stages.build import build_clip, build_model, check_model, check_settings
from asyrp_lit.stages.device import pick_device
from asyrp_lit.stages.guard import report_errors, run_folder, write_json
from asyrp_lit.stages.interval import count_profiled, measure_profile
from asyrp_lit.stages.interval_pictures import Findings, draw_choice, draw_strip
from asyrp_lit.stages.interval_sweep import load_swept, sweep_intervals
from asyrp_lit.stages.latents import build_source
from asyrp_lit.stages.lock import alone_in_folder, in_first_process

log = logging.getLogger(__name__)

_COUNTS = {"strip_images": 1, "strip_columns": 2, "sweep_images": 1}


@report_errors
@in_first_process
@alone_in_folder
def measure_interval(cfg: DictConfig) -> None:
    """Curves, table and strip of P_t; with ``sweep=true`` also edits over a grid of t_edit and t_boost."""
    check_settings(cfg)
    check_options(cfg)
    seed_everything(cfg.seed, verbose=False)
    run, grid = run_folder(), make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    attributes = find_attributes(cfg)
    model = build_model(cfg)
    swept = load_swept(cfg, model, grid) if cfg.sweep else None
    source = build_source(cfg, "train", None)
    count_profiled(cfg, source)
    check_model(cfg, model, source)
    clip = build_clip(cfg).to(pick_device(cfg))

    profile = measure_profile(cfg, model, source, grid)
    curves = profile.average()
    marks = mark_attributes(cfg, clip, curves, attributes)
    t_boost = find_first_crossing(curves.timesteps, curves.x_t, cfg.interval.boost_threshold)
    findings = Findings(model, source, grid, profile, marks, t_boost)
    report = describe_findings(cfg, findings, attributes)
    write_json(run / "interval.json", report)
    draw_choice(cfg, findings, run / "interval.png")
    draw_strip(cfg, findings, run / "strip.png")
    log_table(findings, cfg.interval.t_start)
    if swept:
        report["sweep"] = sweep_intervals(cfg, model, grid, swept, curves, clip, run)
        write_json(run / "interval.json", report)
    log.info("numbers: %s, pictures: %s beside it", run / "interval.json", "interval.png, strip.png")


def check_options(cfg: DictConfig) -> None:
    """See what would only fail after minutes of work.

    Raises:
        ValueError: a setting of this script is not possible.
    """
    for name, least in _COUNTS.items():
        if type(cfg[name]) is not int or cfg[name] < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, got {cfg[name]!r}")
    if type(cfg.sweep) is not bool:
        raise ValueError(f"sweep must be true or false, got {cfg.sweep!r}")
    if type(cfg.cos_text) not in (int, float) or not -1 <= cfg.cos_text <= 1:
        raise ValueError(f"cos_text must be a number, -1 to 1, got {cfg.cos_text!r}")
    if cfg.sweep and not isinstance(cfg.direction, str):
        raise ValueError(
            "sweep=true needs direction=, a file (train.py writes one) or the name of an embedded one; got "
            f"{cfg.direction!r}"
        )
    if cfg.direction is not None and not cfg.sweep:
        raise ValueError("direction is for sweep=true only: add that, or leave the direction out")
    if cfg.interval.kind not in ("lpips", "measured"):
        raise ValueError("interval.py looks for thresholds on curves: choose interval=lpips or interval=measured")
    check_interval(0, 0, cfg.interval.t_start)


def mark_attributes(
    cfg: DictConfig, clip: FrozenCLIP, curves: LPIPSCurves, attributes: Sequence[Attribute]
) -> list[Mark]:
    """Where each attribute meets the curve of P_t."""
    marks = []
    for attribute in attributes:
        if cfg.model.domain == AVATARS and attribute.labels is None:
            log.warning("the small CLIP has not learnt the words of %s: its cos_text says little", attribute.name)
        cos_text = compute_cos_text(clip, attribute.src_text, attribute.trg_text)
        threshold = cfg.interval.edit_threshold * cos_text
        t_edit = find_first_crossing(curves.timesteps, curves.pred_x0, threshold)
        marks.append(Mark(attribute.name, cos_text, threshold, t_edit))
    return marks


def describe_findings(cfg: DictConfig, findings: Findings, attributes: Sequence[Attribute]) -> dict[str, Any]:
    """The content of interval.json."""
    model, source, _, profile, marks, t_boost = findings
    mean, (lower, upper) = profile.average(), profile.find_quartiles()
    parts = {"mean": mean, "lower_quartile": lower, "upper_quartile": upper}
    chosen = {
        attribute.name: {
            "src_text": attribute.src_text,
            "trg_text": attribute.trg_text,
            "cos_text": round(mark.cos_text, 4),
            "threshold": round(mark.threshold, 5),
            "t_edit": mark.t_edit,
            "t_boost": t_boost or 0,
        }
        for attribute, mark in zip(attributes, marks, strict=True)
    }
    return {
        "base_model": model.name,
        "base_fingerprint": model.fingerprint(),
        "images": source.name,
        "num_images": mean.num_images,
        "num_steps": cfg.method.num_steps,
        "clip": cfg.clip.name,
        "edit_threshold": cfg.interval.edit_threshold,
        "boost_threshold": cfg.interval.boost_threshold,
        "t_start": cfg.interval.t_start,
        "attributes": chosen,
        "curves": {
            "timesteps": mean.timesteps,
            "pred_x0": {name: part.pred_x0 for name, part in parts.items()},
            "x_t": {name: part.x_t for name, part in parts.items()},
        },
    }


def log_table(findings: Findings, t_start: int) -> None:
    """One line an attribute, and what it should be noticed about."""
    width = max(len("attribute"), *(len(mark.name) for mark in findings.marks))
    log.info("%s  cos_text  threshold  t_edit  t_boost", "attribute".ljust(width))
    for mark in findings.marks:
        note = ""
        if mark.t_edit is None:
            note = f"  P_t never reaches the threshold (at most {max(findings.profile.average().pred_x0):.3f})"
        elif mark.t_edit > t_start:
            note = f"  no step edits: t_edit is above t_start = {t_start}"
        t_edit = "-" if mark.t_edit is None else str(mark.t_edit)
        values = (mark.name.ljust(width), mark.cos_text, mark.threshold, t_edit, findings.t_boost or 0, note)
        log.info("%s  %8.3f  %9.4f  %6s  %7d%s", *values)
    if findings.t_boost is None:
        log.info("LPIPS(x_0, x_t) never reaches the boost threshold, so t_boost is 0: no boosting")
