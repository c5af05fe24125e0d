"""The stages behind the scripts: the only file that sees ``cfg``."""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.latent_shards import write_atomically
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.source import ImageSource
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.hspace.attribute import AVATARS, Attribute, resolve_attribute
from asyrp_lit.hspace.combine import Scaled, rescale_to_steps
from asyrp_lit.hspace.direction import (
    DirectionInfo,
    direction_arguments,
    load_direction,
    make_direction,
    read_direction_info,
    save_direction,
)
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval
from asyrp_lit.inversion.invert import fill_store, make_store_key
from asyrp_lit.inversion.profile import load_curves, measure_lpips_curves, save_curves
from asyrp_lit.losses.clip import FrozenCLIP, choose_templates, load_clip
from asyrp_lit.losses.directional import compute_cos_text, compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.metrics.sweep import judge_strengths
from asyrp_lit.metrics.true_pairs import draw_true_pairs, true_pair_cosines
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import draw_lpips_curves
from asyrp_lit.plots.grid import draw_grid
from asyrp_lit.plots.save import save_figure
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.callbacks import KeepState, LossCurve, PreviewGrid
from asyrp_lit.training.pretrain import fit_network, make_pretrain_loaders

log = logging.getLogger(__name__)

#: Images per shard of a latent store.
SHARD_SIZE = 32


def report_errors(stage: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """End a stage that fails on what a user gave with one message and exit code 1, the traceback kept in a file."""

    @wraps(stage)
    def guarded(cfg: DictConfig) -> None:
        try:
            stage(cfg)
        except KeyboardInterrupt:
            log.error("stopped; what was finished is kept, run again to go on")
            sys.exit(130)
        except (ValueError, OSError, FloatingPointError, InstantiationException) as error:
            path = run_folder() / "error.log"
            path.write_text(traceback.format_exc())
            log.error("%s\n(details in %s)", error.__cause__ or error, path)
            sys.exit(1)

    return guarded


def run_folder() -> Path:
    """The folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, all of it or nothing."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def pick_device(cfg: DictConfig) -> torch.device:
    """The device that the trainer will use, for the stages before it."""
    return torch.device("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")


@report_errors
def pretrain(cfg: DictConfig) -> None:
    """Train a network of the embedded avatar domain; a rerun resumes."""
    seed_everything(cfg.seed)
    run = run_folder()
    loaders = make_pretrain_loaders(**cfg.network.data, cache=Path(cfg.paths.cache) / "avatars")
    module = instantiate(cfg.network.module)
    fit_network(module, loaders, run, **cfg.network.fit, ema_decay=cfg.network.ema_decay, resume=cfg.resume)


def build_attribute(cfg: DictConfig) -> Attribute:
    """The attribute as it is meant on this model's domain."""
    values = OmegaConf.to_container(cfg.attr, resolve=True)
    assert isinstance(values, dict)
    return resolve_attribute({str(key): value for key, value in values.items()}, cfg.model.domain)


def build_source(cfg: DictConfig, split: str, attribute: Attribute) -> ImageSource:
    """The images of a split; on labelled data those to which the attribute applies."""
    node = cfg.data[split]
    if "where" in node and node.where is None and attribute.where is not None:
        return instantiate(node, where=attribute.where)  # type: ignore[no-any-return]
    return instantiate(node)  # type: ignore[no-any-return]


def build_store(
    cfg: DictConfig, model: HSpaceUNet, source: ImageSource, pred_x0_steps: tuple[int, ...] = ()
) -> LatentStore:
    """The latents of a source, computed where they are missing."""
    method = cfg.method
    precision = "bf16" if str(cfg.trainer.precision).startswith("bf16") else "32-true"
    key = make_store_key(model, source, method.num_steps, method.t_0, precision, pred_x0_steps)
    num_labels = len(source[0].labels)
    store = LatentStore.create(cfg.paths.latents, key, list(source.keys), SHARD_SIZE, num_labels)
    with store.lock():
        if missing := store.missing_shards():
            mebibytes = LatentStore.disk_bytes(key, len(source), num_labels) / 2**20
            log.info("inverting into %s (%.1f MiB, %d shards to do)", store.folder, mebibytes, len(missing))
            fill_store(model, source, store, cfg.inversion_batch_size)
        else:
            log.info("reusing the latents in %s", store.folder)
    return store


def measure_curves(cfg: DictConfig, model: HSpaceUNet, source: ImageSource, grid: tuple[int, ...]) -> LPIPSCurves:
    """LPIPS curves of the first images of a source, kept beside the stores."""
    num_images = min(cfg.interval.num_images, len(source))
    key = make_store_key(model, source, cfg.method.num_steps, cfg.method.t_0)
    path = Path(cfg.paths.latents) / f"lpips-{num_images}-{key.folder_name()}.json"
    if curves := load_curves(path):
        return curves
    device = pick_device(cfg)
    x_0 = torch.stack([source[i].x_0 for i in range(num_images)]).to(device)
    curves = measure_lpips_curves(model, x_0, grid, make_alphas_cumprod().to(device), load_lpips().to(device))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_curves(path, curves)
    return curves


def build_interval(
    cfg: DictConfig, model: HSpaceUNet, source: ImageSource, grid: tuple[int, ...], cos_text: float
) -> Interval:
    """The interval, and for measured ones the picture of the curves in the run folder."""
    chosen = cfg.interval
    if chosen.kind == "fixed":
        return check_interval(chosen.t_edit, chosen.t_boost)
    curves = measure_curves(cfg, model, source, grid)
    interval = choose_interval(curves, cos_text, chosen.edit_threshold, chosen.boost_threshold)
    figure = draw_lpips_curves(
        curves.timesteps,
        curves.pred_x0,
        curves.x_t,
        chosen.edit_threshold * cos_text,
        chosen.boost_threshold,
        interval.t_edit,
        interval.t_boost,
    )
    save_figure(figure, run_folder() / "interval.png")
    return interval


def build_clip(cfg: DictConfig) -> FrozenCLIP:
    """The frozen CLIP."""
    return load_clip(cfg.clip.name, cfg.clip.weights, cfg.clip.cache)


def build_module(
    cfg: DictConfig,
    model: HSpaceUNet,
    clip: FrozenCLIP,
    attribute: Attribute,
    grid: tuple[int, ...],
    interval: Interval,
) -> AsyrpModule:
    """The LightningModule from its built parts."""
    templates = choose_templates(cfg.clip.templates)
    text_direction = compute_text_direction(clip, attribute.src_text, attribute.trg_text, templates)
    method = cfg.method
    arguments = direction_arguments(method.kind, model.h_channels, model.h_size, model.temb_channels, grid)
    oracle = load_oracle() if cfg.model.domain == AVATARS else None
    return AsyrpModule(
        model,
        clip,
        make_direction(method.kind, **arguments),
        text_direction,
        compute_cos_text(clip, attribute.src_text, attribute.trg_text),
        grid,
        interval,
        instantiate(method.loss),
        instantiate(method.optimizer),
        method.lr_decay,
        method.grad_clip,
        MetricPanel(Judges(clip, load_lpips(), oracle), text_direction, attribute.labels),
    )


def build_trainer(cfg: DictConfig, module: AsyrpModule, run: Path, title: str) -> Trainer:
    """Lightning's trainer with what a run leaves in its folder."""
    loggers: list[Logger] = [CSVLogger(run, name="", version="log")]
    if cfg.logger.wandb is not None:
        loggers.append(instantiate(cfg.logger.wandb)(save_dir=str(run)))
    callbacks: list[Callback] = [
        TQDMProgressBar(refresh_rate=1),
        PreviewGrid(run, cfg.callbacks.preview_images, tuple(cfg.callbacks.strengths), title),
        LossCurve(run),
        KeepState(run / "last.ckpt"),
    ]
    return instantiate(  # type: ignore[no-any-return]
        cfg.trainer,
        logger=loggers,
        callbacks=callbacks,
        max_epochs=cfg.method.passes,
        check_val_every_n_epoch=cfg.method.passes,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        _convert_="object",
    )


class Setup(NamedTuple):
    """What inversion, training and evaluation share."""

    attribute: Attribute
    grid: tuple[int, ...]
    model: HSpaceUNet
    sources: dict[str, ImageSource]


def build_setup(cfg: DictConfig) -> Setup:
    """Attribute, time grid, frozen model and image sources."""
    seed_everything(cfg.seed, verbose=False)
    attribute = build_attribute(cfg)
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    model: HSpaceUNet = instantiate(cfg.model.build).to(pick_device(cfg))
    return Setup(attribute, grid, model, {split: build_source(cfg, split, attribute) for split in ("train", "val")})


@report_errors
def invert(cfg: DictConfig) -> None:
    """The latent stores of train and val, without P_t."""
    setup = build_setup(cfg)
    for source in setup.sources.values():
        build_store(cfg, setup.model, source)


@report_errors
def train(cfg: DictConfig) -> None:
    """Latents, interval, f_t, metrics and pictures for one attribute."""
    run = Path(cfg.resume) if cfg.resume else run_folder()
    checkpoint = find_checkpoint(cfg.resume)
    attribute, grid, model, sources = build_setup(cfg)
    clip = build_clip(cfg).to(pick_device(cfg))
    cos_text = compute_cos_text(clip, attribute.src_text, attribute.trg_text)
    interval = build_interval(cfg, model, sources["train"], grid, cos_text)
    log.info("attribute %s: cos_text %.3f, t_edit %d, t_boost %d", attribute.name, cos_text, *interval)
    torch.manual_seed(cfg.seed)
    module = build_module(cfg, model, clip, attribute, grid, interval)
    lowest = cfg.method.cache_pred_x0_from
    cached = () if lowest is None else tuple(t for t in grid if t >= min(lowest, interval.t_edit))
    train_store = build_store(cfg, model, sources["train"], cached)
    val_store = build_store(cfg, model, sources["val"])
    trainer = build_trainer(cfg, module, run, describe(attribute))
    batch_sizes = (cfg.method.batch_size, cfg.inversion_batch_size)
    data = LatentsDataModule(train_store.folder, val_store.folder, *batch_sizes, seed=cfg.seed)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        write_results(cfg, module, attribute, run, trainer)


def describe(attribute: Attribute) -> str:
    """Headline of a picture."""
    return f"{attribute.name}: {attribute.src_text} → {attribute.trg_text}"


@report_errors
def evaluate(cfg: DictConfig) -> None:
    """Metrics of a direction file at several strengths, and their grid."""
    if cfg.direction is None:
        raise ValueError("evaluate.py needs direction=/path/to/a/direction.safetensors (train.py writes one)")
    path = Path(cfg.direction)
    info = read_direction_info(path)
    if info.attribute != cfg.attr.name:
        raise ValueError(f"direction {path} edits {info.attribute!r}: add attr={info.attribute}")
    attribute, grid, model, sources = build_setup(cfg)
    direction, info = load_direction(path, model.fingerprint(), model.name)
    store = build_store(cfg, model, sources["val"])
    clip = build_clip(cfg).to(pick_device(cfg))
    text_direction = compute_text_direction(
        clip, attribute.src_text, attribute.trg_text, choose_templates(cfg.clip.templates)
    )
    oracle = load_oracle() if cfg.model.domain == AVATARS else None
    judges = Judges(clip, load_lpips(), oracle)
    panels = {float(s): MetricPanel(judges, text_direction, attribute.labels) for s in cfg.strengths}
    scale = rescale_to_steps(info.num_steps, cfg.method.num_steps)
    interval = Interval(info.t_edit, info.t_boost)
    rows = judge_strengths(
        model, store, grid, Scaled(direction, scale), interval, panels, cfg.inversion_batch_size, pick_device(cfg)
    )
    metrics = {f"{s:g}": {name: float(v) for name, v in panel.compute().items()} for s, panel in panels.items()}
    write_json(run_folder() / "metrics.json", metrics)
    save_figure(draw_grid({k: v[:16] for k, v in rows.items()}, describe(attribute)), run_folder() / "grid.png")
    log.info("strength  %s", "  ".join(next(iter(metrics.values()))))
    for strength, values in metrics.items():
        log.info("%8s  %s", strength, "  ".join(f"{v:.3f}".rjust(len(k)) for k, v in values.items()))


@report_errors
def check_texts(cfg: DictConfig) -> None:
    """The cosine of the texts and, on true pairs, the ceiling of the directional cosine."""
    attribute = build_attribute(cfg)
    if attribute.labels is None:
        raise ValueError(f"attribute {attribute.name} names no portrait labels, so there are no true pairs of it")
    clip = build_clip(cfg)
    templates = choose_templates(cfg.clip.templates)
    text_direction = compute_text_direction(clip, attribute.src_text, attribute.trg_text, templates)
    pairs = draw_true_pairs("val", cfg.num_pairs, attribute.labels, attribute.where)
    cosines = true_pair_cosines(clip, *pairs, text_direction)
    log.info("%s -> %s", attribute.src_text, attribute.trg_text)
    log.info("cosine of the texts %.3f", compute_cos_text(clip, attribute.src_text, attribute.trg_text))
    log.info("true-pair cosine %.3f (standard deviation %.3f, %d pairs)", cosines.mean(), cosines.std(), len(cosines))


def find_checkpoint(resume: str | None) -> Path | None:
    """The checkpoint of the run folder to resume, ``None`` for a new run.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if resume is None:
        return None
    path = Path(resume) / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist; resume=FOLDER names a run folder")
    return path


def write_results(cfg: DictConfig, module: AsyrpModule, attribute: Attribute, run: Path, trainer: Trainer) -> None:
    """The direction file and metrics.json of a finished run."""
    metrics = {
        name.removeprefix("val/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("val/")
    }
    method = cfg.method
    loss: dict[str, Any] = {str(k): v for k, v in method.loss.items() if k != "_target_"}
    info = DirectionInfo(
        kind=method.kind,
        arguments=direction_arguments(
            method.kind, module.model.h_channels, module.model.h_size, module.model.temb_channels, module.grid
        ),
        attribute=attribute.name,
        src_text=attribute.src_text,
        trg_text=attribute.trg_text,
        base_model=module.model.name,
        base_fingerprint=module.model.fingerprint(),
        t_edit=module.interval.t_edit,
        t_boost=module.interval.t_boost,
        num_steps=method.num_steps,
        loss=loss | {"clip": module.clip.name, "templates": cfg.clip.templates, "cos_text": round(module.cos_text, 4)},
        metrics=metrics,
    )
    path = run / f"{attribute.name}.safetensors"
    save_direction(path, module.direction, info)
    write_json(run / "metrics.json", metrics)
    for name, value in metrics.items():
        log.info("%-24s %.4f", name, value)
    log.info("direction: %s, pictures: %s", path, run / "grid.png")
