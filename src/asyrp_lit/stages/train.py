"""Latents and training of a direction."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
import wandb
from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, ListConfig

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.hspace.attribute import AVATARS, Attribute, list_classes
from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, save_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.losses.directional import compute_cos_text
from asyrp_lit.stages.build import FOUND_KINDS, build_clip, build_setup
from asyrp_lit.stages.calibrate import calibrate, count_set_aside
from asyrp_lit.stages.capacity import check_shared_sizes, find_training_sizes
from asyrp_lit.stages.device import check_processes, pick_device
from asyrp_lit.stages.guard import find_sweep, load_metrics, report_errors, run_folder, write_json
from asyrp_lit.stages.interval import build_interval
from asyrp_lit.stages.judge import describe
from asyrp_lit.stages.latents import build_store, choose_cached_steps, write_image_lists
from asyrp_lit.stages.launch import needs_command, run_command
from asyrp_lit.stages.lock import alone_in_folder, hold_folder
from asyrp_lit.stages.module import build_module
from asyrp_lit.stages.resume import (
    AUTO,
    TakeOver,
    begin,
    check_joint_batch,
    check_num_images,
    check_passes,
    choose_run,
    hydra_goes_back,
    read_finished,
    read_joint_batch,
    say_how_to_go_on,
)
from asyrp_lit.stages.sweep_end import end_with_sweep
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.callbacks import LossCurve, PreviewGrid
from asyrp_lit.training.logs import make_csv_logger
from asyrp_lit.training.processes import choose_plugins
from asyrp_lit.training.state import KeepState, check_fits
from asyrp_lit.training.terminate import EndOnSigterm, children_end, ctrl_c_raises

log = logging.getLogger(__name__)

#: What to know about an attribute of photographs on portraits.
UNJUDGED = (
    "attribute %s has no portrait labels: the small CLIP has not learnt such words, so expect little of the direction, "
    "and the oracle does not judge it"
)


@report_errors
def invert(cfg: DictConfig) -> None:
    """The latent stores of train and val, as training reads them unless its t_edit is below ``cache_pred_x0_from``.

    Of several processes none waits for another, and the last to end may find shards of a dead one missing.
    """
    setup = build_setup(cfg)
    write_image_lists(setup.sources, run_folder())
    steps = {"train": choose_cached_steps(cfg, setup.grid), "val": ()}
    stores = [build_store(cfg, setup.model, setup.sources[name], steps[name], wait=False) for name in steps]
    for store in stores:
        left = store.missing_shards(verify=False)
        log.info("%s: %d of %d shards are there", store.folder, store.num_shards - len(left), store.num_shards)


def build_trainer(cfg: DictConfig, run: Path, title: str, take_over: TakeOver) -> Trainer:
    """Lightning's trainer with what a run leaves in its folder."""
    loggers: list[Logger] = [make_csv_logger(run)]
    if cfg.logger.wandb is not None:
        sweep = find_sweep()
        group = cfg.logger.wandb.group or (sweep.name if sweep else None)
        mode = "offline" if cfg.logger.wandb.offline else None  # the variable that offline sets is read once a process
        options = {"save_dir": str(run), "group": group, "mode": mode, "id": find_wandb_id(run)}
        loggers.append(instantiate(cfg.logger.wandb)(**options))
    strengths = tuple(cfg.callbacks.strengths)
    if cfg.judged not in strengths:
        strengths = tuple(sorted((*strengths, cfg.judged)))
    callbacks: list[Callback] = [
        TQDMProgressBar(refresh_rate=1),
        PreviewGrid(run, cfg.callbacks.preview_images, strengths, title),
        LossCurve(run),
        KeepState(run / "last.ckpt"),
        take_over,
        EndOnSigterm(),
    ]
    return instantiate(  # type: ignore[no-any-return]
        cfg.trainer,
        default_root_dir=run / "lightning",  # never made: under SLURM states are loaded from there unasked
        logger=loggers,
        callbacks=callbacks,
        max_epochs=cfg.method.passes,
        check_val_every_n_epoch=cfg.method.passes + 1,  # the finished direction is judged, after calibration
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        plugins=cfg.trainer.get("plugins") or choose_plugins(),
        _convert_="object",
    )


def find_wandb_id(run: Path) -> str | None:
    """The run of Weights & Biases that a training in this folder began, to go on in it; its folders end in the id."""
    begun = max(run.glob("wandb/*run-*-*"), key=lambda folder: folder.stat().st_mtime, default=None)
    return begun.name.rsplit("-", 1)[1] if begun else None


def train(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """Latents, interval, f_t, metrics and pictures for one attribute.

    Returns:
        The metrics that ``objective`` names, for a sweeper of Hydra: one as a number, several as a tuple in its order;
        ``None`` where it names none.
    """
    end_with_sweep()
    if needs_command(cfg):
        run_command()
        run = run_folder() if cfg.resume in (None, AUTO) else Path(cfg.resume)
        metrics = load_metrics(run / "metrics.json")
    else:
        metrics = _train_here(cfg)
    values = tuple(metrics[name] for name in cfg.objective or ())
    return values[0] if len(values) == 1 else values or None


@report_errors
@alone_in_folder
def _train_here(cfg: DictConfig) -> dict[str, float]:
    """The content of metrics.json.

    Raises:
        ValueError: the method does not train, or the run does not measure its objective.
    """
    if cfg.method.kind in FOUND_KINDS:
        raise ValueError(f"method={cfg.method.kind} finds directions without training: python discover.py does that")
    return run_training(cfg).metrics


class Trained(NamedTuple):
    """A finished run: its folder, and the content of metrics.json."""

    run: Path
    metrics: dict[str, float]


def run_training(cfg: DictConfig) -> Trained:
    """What ``train`` does, for stages that train on their way. A run that was stopped goes on, a finished one is read.

    Raises:
        BlockingIOError: another process is at work in its folder.
    """
    run = choose_run(cfg)
    with hold_folder(run), hydra_goes_back(run), say_how_to_go_on(run):
        metrics = read_finished(cfg, run)
        return Trained(run, train_in(run, *begin(cfg, run), cfg) if metrics is None else metrics)


def train_in(run: Path, checkpoint: Path | None, take_over: TakeOver, cfg: DictConfig) -> dict[str, float]:
    """Train in a run folder, from a checkpoint on or anew; the content of metrics.json."""
    check_shared_sizes(cfg)
    check_processes(cfg)
    begins_anew = checkpoint is None and cfg.method.init_from is not None
    init_from = find_direction(str(cfg.method.init_from)) if begins_anew else None
    attribute, grid, model, sources = build_setup(cfg)
    if checkpoint is None:
        write_image_lists(sources, run)
    if cfg.model.domain == AVATARS and attribute.labels is None:
        log.warning(UNJUDGED, attribute.name)
    clip = build_clip(cfg).to(pick_device(cfg))
    cos_text = compute_cos_text(clip, attribute.src_text, attribute.trg_text)
    interval = build_interval(cfg, model, sources["train"], grid, cos_text, run)
    log.info("attribute %s: cos_text %.3f, t_edit %d, t_boost %d, t_start %d", attribute.name, cos_text, *interval)
    torch.manual_seed(cfg.seed)
    module = build_module(cfg, model, clip, attribute, grid, interval, init_from)
    check_objective(cfg, module)
    num_trained = len(sources["train"]) - count_set_aside(cfg, len(sources["train"]))
    if checkpoint:
        check_fits(checkpoint, module)
        check_passes(checkpoint, cfg.method.passes)
        check_joint_batch(checkpoint, cfg)
        check_num_images(checkpoint, num_trained)
    train_store = build_store(cfg, model, sources["train"], choose_cached_steps(cfg, grid, interval.t_edit))
    val_store = build_store(cfg, model, sources["val"])
    title = describe(attribute) + ("" if cfg.judged == 1 else f", judged at strength {cfg.judged:g}")
    trainer = build_trainer(cfg, run, title, take_over)
    find_training_sizes(cfg, module, num_trained, read_joint_batch(checkpoint) if checkpoint else None)
    batch_sizes = (cfg.method.batch_size, cfg.inversion_batch_size)
    options = {"seed": cfg.seed, "num_workers": cfg.latents.read_workers, "num_train_images": num_trained}
    data = LatentsDataModule(train_store, val_store, *batch_sizes, **options)
    metrics: dict[str, float] = {}
    try:
        with children_end(trainer):
            with ctrl_c_raises():
                trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            calibrate(cfg, module, train_store, num_trained)
            trainer.validate(module, data, verbose=False)
            metrics = read_metrics(trainer)
            if trainer.is_global_zero:
                take_over.take_over()  # where all passes were done and no state was saved
                write_image_lists(sources, run)
                write_results(cfg, module, attribute, run, metrics)
    finally:
        if wandb.run is not None:
            wandb.finish(exit_code=0 if metrics else 1)  # else the next run of a sweep would go on in this one
    return metrics


def read_metrics(trainer: Trainer) -> dict[str, float]:
    """The validation metrics by their names in metrics.json."""
    found = trainer.callback_metrics.items()
    return {name.removeprefix("val/"): float(value) for name, value in found if name.startswith("val/")}


def check_objective(cfg: DictConfig, module: AsyrpModule) -> None:
    """See that the run will measure what a sweeper wants of it.

    Raises:
        ValueError: ``objective`` is no list of metrics of this run.
    """
    wanted = cfg.objective
    if wanted is None:
        return
    measured = list(module.panel.reducers) if module.panel is not None else []
    missing = [name for name in wanted if name not in measured] if isinstance(wanted, ListConfig) else [wanted]
    if missing or not wanted:
        raise ValueError(
            f"objective must be null or a list of metrics of this run ({', '.join(measured)}), got {wanted}; success "
            "and preservation need portraits and an attribute with labels"
        )


def write_results(
    cfg: DictConfig, module: AsyrpModule, attribute: Attribute, run: Path, metrics: dict[str, float]
) -> None:
    """The direction file and metrics.json of a finished run."""
    method = cfg.method
    loss: dict[str, Any] = {str(k): v for k, v in method.loss.items() if k != "_target_"}
    if method.calibration.num_images:
        loss["calibrated"] = module.strength  # of delta_h as trained
    texts = {"clip": module.loss.clip.name, "templates": cfg.clip.templates, "cos_text": round(module.loss.cos_text, 4)}
    if tuple(method.train_strengths) != (1, 1):
        loss["train_strengths"] = list(method.train_strengths)
    if method.init_from is not None:
        loss["init_from"] = Path(method.init_from).name
    if cfg.judged != 1:
        loss["judged"] = cfg.judged  # the strength of the metrics
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
        t_start=module.interval.t_start,
        num_steps=method.num_steps,
        loss=loss | texts,
        metrics=metrics,
        labels=list_classes(attribute.labels),
        where=list_classes(attribute.where),
    )
    path = run / f"{attribute.name}.safetensors"
    save_direction(path, module.direction, info)
    write_json(run / "metrics.json", metrics)
    for name, value in metrics.items():
        log.info("%-24s %.4f", name, value)
    log.info("direction: %s, pictures: %s", path, run / "grid.png")
