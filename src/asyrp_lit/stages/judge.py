"""Judging of directions and of texts."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.editing.plan import make_plan
from asyrp_lit.editing.strengths import check_distinct, spread_strengths
from asyrp_lit.editing.strips import name_strength
from asyrp_lit.hspace.attribute import AVATARS, Attribute
from asyrp_lit.hspace.direction import load_direction, read_direction_info
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.losses.clip import choose_templates
from asyrp_lit.losses.directional import compute_cos_text, compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.editing import target_probability
from asyrp_lit.metrics.monotone import measure_monotony
from asyrp_lit.metrics.oracle import AttributeOracle, load_oracle
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.metrics.sweep import judge_strengths
from asyrp_lit.metrics.true_pairs import draw_true_pairs, true_pair_cosines
from asyrp_lit.plots.curves import draw_strength_curves
from asyrp_lit.plots.grid import draw_grid
from asyrp_lit.plots.save import save_figure
from asyrp_lit.shapes import Images
from asyrp_lit.stages.build import build_attribute, build_clip, build_setup
from asyrp_lit.stages.device import autocast_as, pick_device
from asyrp_lit.stages.guard import report_errors, run_folder, write_json
from asyrp_lit.stages.latents import build_store, write_image_lists
from asyrp_lit.stages.lock import alone_in_folder, in_first_process

log = logging.getLogger(__name__)


def describe(attribute: Attribute) -> str:
    """Headline of a picture."""
    return f"{attribute.name}: {attribute.src_text} → {attribute.trg_text}"


@report_errors
@in_first_process
@alone_in_folder
def evaluate(cfg: DictConfig) -> None:
    """Metrics of a direction file at several strengths, how monotone they are in it, and a grid."""
    if not isinstance(cfg.direction, str):
        raise ValueError(
            "evaluate.py needs direction=, a file (train.py writes one) or the name of an embedded one; got "
            f"{cfg.direction!r}"
        )
    strengths = read_strengths("strengths", cfg.strengths)
    path = find_direction(cfg.direction)
    info = read_direction_info(path)
    if info.trg_text and info.attribute != cfg.attr.name:
        raise ValueError(
            f"direction {path} edits {info.attribute!r}: add attr={info.attribute}, or attr=custom "
            f"attr.name={info.attribute} for texts of your own"
        )
    attribute, grid, model, sources = build_setup(cfg)
    write_image_lists(sources, run_folder())
    if info.trg_text:  # one that was found without texts is judged by those of attr
        attribute = replace(attribute, src_text=info.src_text, trg_text=info.trg_text)
    direction, info = load_direction(path, model.fingerprint(), model.name)
    device = pick_device(cfg)
    plan = make_plan([(direction.to(device), info)], cfg.method.num_steps, t_0=cfg.method.t_0)
    store = build_store(cfg, model, sources["val"])
    clip = build_clip(cfg).to(device)
    text_direction = compute_text_direction(
        clip, attribute.src_text, attribute.trg_text, choose_templates(cfg.clip.templates)
    )
    oracle = load_oracle() if cfg.model.domain == AVATARS else None
    judges = Judges(clip, load_lpips(), oracle)
    panels = {s: MetricPanel(judges, text_direction, attribute.labels).to(device) for s in strengths}
    with autocast_as(cfg):
        common = (model, store, grid, plan.directions[0], plan.interval, panels)
        rows = judge_strengths(*common, cfg.inversion_batch_size, device, cfg.seed)
    metrics = {f"{s:g}": {name: float(v) for name, v in panel.compute().items()} for s, panel in panels.items()}
    over_strengths = {}
    if oracle is not None and attribute.labels is not None and len(panels) > 2:
        over_strengths = {"over_strengths": judge_monotony(oracle, rows, sorted(panels), attribute)}
    write_json(run_folder() / "metrics.json", metrics | over_strengths)
    save_figure(draw_grid({k: v[:16] for k, v in rows.items()}, describe(attribute)), run_folder() / "grid.png")
    log.info("strength  %s", "  ".join(next(iter(metrics.values()))))
    for strength, values in metrics.items():
        log.info("%8s  %s", strength, "  ".join(f"{v:.3f}".rjust(len(k)) for k, v in values.items()))
    for name, value in over_strengths.get("over_strengths", {}).items():
        words = name.replace("_", " ") if name == "largest_fall" else f"rank correlation {name.replace('_', ' ')}"
        log.info("oracle score over strength, %s: %.3f", words, value)


def read_strengths(name: str, value: object) -> tuple[float, ...]:
    """The strengths that a setting names, one or several.

    Raises:
        ValueError: they are not finite numbers, none, or two would have one name.
    """
    try:
        (strengths,) = spread_strengths(OmegaConf.to_object(value) if OmegaConf.is_config(value) else value, 1)
    except ValueError as error:
        raise ValueError(f"{name} must be finite numbers, such as {name}=[0.5,1], got {value}") from error
    check_distinct(strengths)
    return strengths


def judge_monotony(
    oracle: AttributeOracle, rows: dict[str, Images], strengths: Sequence[float], attribute: Attribute
) -> dict[str, float]:
    """How monotone the oracle's score of edits by column is in ascending strengths, drawn into ``curve.png``."""
    assert attribute.labels is not None
    oracle = oracle.cpu()
    edits = [rows[name_strength(strength)].clamp(-1, 1) for strength in strengths]
    with torch.inference_mode():
        scores = torch.stack([target_probability(oracle(images), attribute.labels) for images in edits])
    curve = {attribute.name: scores.mean(dim=1).tolist()}
    save_figure(draw_strength_curves(strengths, curve, describe(attribute)), run_folder() / "curve.png")
    return measure_monotony(strengths, scores)._asdict()


@report_errors
@in_first_process
@alone_in_folder
def check_texts(cfg: DictConfig) -> None:
    """The cosine of the texts and, on true pairs, the ceiling of the directional cosine."""
    attribute = build_attribute(cfg)
    if attribute.labels is None:
        raise ValueError(f"attribute {attribute.name} names no portrait labels, so there are no true pairs of it")
    if type(cfg.num_pairs) is not int or cfg.num_pairs < 2:
        raise ValueError(f"num_pairs must be a whole number, 2 or more, got {cfg.num_pairs!r}")
    clip = build_clip(cfg)
    templates = choose_templates(cfg.clip.templates)
    text_direction = compute_text_direction(clip, attribute.src_text, attribute.trg_text, templates)
    pairs = draw_true_pairs("val", cfg.num_pairs, attribute.labels, attribute.where)
    cosines = true_pair_cosines(clip, *pairs, text_direction)
    log.info("%s -> %s", attribute.src_text, attribute.trg_text)
    log.info("cosine of the texts %.3f", compute_cos_text(clip, attribute.src_text, attribute.trg_text))
    log.info("true-pair cosine %.3f (standard deviation %.3f, %d pairs)", cosines.mean(), cosines.std(), len(cosines))
