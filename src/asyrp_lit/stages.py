"""The stages behind the scripts: the only file that sees ``cfg``."""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.source import ImageSource
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.hspace.attribute import AVATARS, Attribute, resolve_attribute
from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction, save_direction
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval
from asyrp_lit.inversion.invert import fill_store, make_store_key
from asyrp_lit.inversion.profile import load_curves, measure_lpips_curves, save_curves
from asyrp_lit.losses.clip import FrozenCLIP, choose_templates, load_clip
from asyrp_lit.losses.directional import compute_cos_text, compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import draw_lpips_curves
from asyrp_lit.plots.save import save_figure
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.callbacks import LossCurve, PreviewGrid
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
    callbacks = [
        TQDMProgressBar(refresh_rate=1),
        ModelCheckpoint(
            run, filename="last", every_n_train_steps=len(module.train_steps), enable_version_counter=False
        ),
        PreviewGrid(run, cfg.callbacks.preview_images, tuple(cfg.callbacks.strengths), title),
        LossCurve(run),
    ]
    return instantiate(  # type: ignore[no-any-return]
        cfg.trainer,
        logger=loggers,
        callbacks=callbacks,
        max_epochs=cfg.method.passes,
        check_val_every_n_epoch=cfg.method.passes,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        _convert_="object",
    )


@report_errors
def train(cfg: DictConfig) -> None:
    """Latents, interval, f_t, metrics and pictures for one attribute."""
    seed_everything(cfg.seed)
    run = Path(cfg.resume) if cfg.resume else run_folder()
    attribute = build_attribute(cfg)
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    model: HSpaceUNet = instantiate(cfg.model.build).to(pick_device(cfg))
    clip = build_clip(cfg).to(pick_device(cfg))
    sources = {split: build_source(cfg, split, attribute) for split in ("train", "val")}
    cos_text = compute_cos_text(clip, attribute.src_text, attribute.trg_text)
    interval = build_interval(cfg, model, sources["train"], grid, cos_text)
    log.info("attribute %s: cos_text %.3f, t_edit %d, t_boost %d", attribute.name, cos_text, *interval)
    torch.manual_seed(cfg.seed)
    module = build_module(cfg, model, clip, attribute, grid, interval)
    cached = tuple(t for t, _ in module.train_steps) if cfg.method.cache_pred_x0 else ()
    stores = {
        "train": build_store(cfg, model, sources["train"], cached),
        "val": build_store(cfg, model, sources["val"]),
    }
    trainer = build_trainer(cfg, module, run, f"{attribute.name}: {attribute.src_text} to {attribute.trg_text}")
    data = LatentsDataModule(
        stores["train"].folder, stores["val"].folder, cfg.method.batch_size, cfg.inversion_batch_size, seed=cfg.seed
    )
    trainer.fit(module, data, ckpt_path=find_checkpoint(cfg.resume), weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        write_results(cfg, module, attribute, run, trainer)


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
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    for name, value in metrics.items():
        log.info("%-24s %.4f", name, value)
    log.info("direction: %s, pictures: %s", path, run / "grid.png")
