"""Going on with a training that was stopped."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.latent_loader import is_within_epoch
from asyrp_lit.hspace.direction import read_direction
from asyrp_lit.stages.capacity import AUTO as AUTO_SIZE
from asyrp_lit.stages.device import count_processes, find_rank
from asyrp_lit.stages.guard import RefusedStartError, find_sweep, load_metrics, run_folder
from asyrp_lit.stages.lock import is_busy
from asyrp_lit.stages.settings import (
    keep_settings,
    list_differences,
    name_differences,
    read_hydra,
    read_settings,
    restore_hydra,
    spell_override,
)
from asyrp_lit.training.state import load_whole
from asyrp_lit.training.terminate import Terminated

log = logging.getLogger(__name__)

#: What a training resumed by resume=FOLDER may not change; more passes, workers, settings of the optimiser are free.
FIXED = (
    *("attr", "model", "interval", "clip", "data"),
    *(
        "method.kind",
        "method.num_steps",
        "method.t_0",
        "method.stagger",
        "method.loss",
        "method.train_strengths",
        "method.init_from",
        "method.optimizer._target_",
    ),
    "method.calibration.num_images",
    *("latents.kind", "latents.train", "latents.val", "latents.seed"),
    "seed",
)
#: Value of ``resume`` that looks for a run.
AUTO = "auto"


def choose_run(cfg: DictConfig) -> Path:
    """The folder of the run: that of ``resume``, or this start's own.

    Raises:
        FileNotFoundError: ``resume`` names a folder with nothing to resume.
    """
    if cfg.resume is None:
        return run_folder()
    if cfg.resume == AUTO:
        return _find_unfinished(cfg) or run_folder()
    path = Path(cfg.resume) / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist; resume=FOLDER names a run folder")
    return Path(cfg.resume)


def _find_unfinished(cfg: DictConfig) -> Path | None:
    """The newest stopped run of the same settings beside this start's own folder, or in it."""
    own = run_folder()
    if (own / "last.ckpt").is_file():
        return own
    states = sorted(own.parent.glob("*/last.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for run in (path.parent for path in states if not path.with_name("metrics.json").is_file()):
        try:
            kept = read_settings(run) or read_hydra(run)
        except ValueError as error:
            log.warning("passed over: %s", error)
            continue
        if kept is None or list_differences(kept[0], cfg):
            continue
        # Processes of one run must choose the same folder, which the first of them may hold already.
        if count_processes(cfg) == 1 and is_busy(run):
            log.info("passed over: another process is at work in %s", run)
            continue
        return run
    return None


def read_finished(cfg: DictConfig, run: Path) -> dict[str, float] | None:
    """The metrics of a run of these settings that has ended; ``None`` where there is something left to do."""
    kept, path = read_settings(run), run / "metrics.json"
    if kept is None or list_differences(kept[0], cfg) or not path.is_file():
        return None
    try:
        metrics = load_metrics(path)
        info = read_direction(run / f"{cfg.attr.name}.safetensors")[1]
    except (ValueError, FileNotFoundError) as error:
        log.warning("%s; it is made again", error)
        return None
    if _spell(info.metrics) != _spell(metrics):
        log.warning("%s is not of the direction file beside it; both are made again", path)
        return None
    log.info("%s has finished before; to train again choose another folder with hydra.run.dir=FOLDER", run)
    return metrics


def _spell(metrics: dict[str, float]) -> dict[str, str]:
    """Metrics that can be compared: NaN equals nothing, not even itself."""
    return {name: repr(float(value)) for name, value in metrics.items()}


class TakeOver(Callback):
    """Puts new settings in the place of a run's own when its next state is saved: a start that fails before leaves it.

    Args:
        cfg: what the run goes on with.
        run: its folder.
    """

    def __init__(self, cfg: DictConfig, run: Path) -> None:
        self.run = run
        kept = read_settings(run)
        differs = kept is None or list_differences(kept[0], cfg)
        self._settings = deepcopy(cfg) if differs else None  # as they are before numbers take the place of auto

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called by Lightning before it writes the file."""
        self.take_over()

    def take_over(self) -> None:
        """Keep the new settings, once, on the first process."""
        settings, self._settings = self._settings, None
        if settings is not None and find_rank().number == 0:
            (self.run / "metrics.json").unlink(missing_ok=True)  # or it would count as finished with what follows
            keep_settings(settings, self.run)
            restore_hydra(self.run)  # which is of an earlier start, or has the resume= of this one


def begin(cfg: DictConfig, run: Path) -> tuple[Path | None, TakeOver]:
    """The checkpoint from which a run goes on, ``None`` for a new run; and what will put its settings in the folder.

    Those of a new run are there at once.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    checkpoint = run / "last.ckpt"
    there = checkpoint.is_file()
    if there or (run / "metrics.json").is_file():
        if cfg.resume in (None, AUTO):
            _check_same(cfg, run)
        else:
            _check_fixed(cfg, run)
    take_over = TakeOver(cfg, run)
    if there:
        log.info("going on in %s from last.ckpt", run)
    else:
        take_over.take_over()
    return checkpoint if there else None, take_over


def _check_same(cfg: DictConfig, run: Path) -> None:
    """See that the same command was given before."""
    kept = read_settings(run)
    if kept is None and run != run_folder():
        return  # found by what Hydra wrote there
    differences = ["it kept no settings.yaml"] if kept is None else list_differences(kept[0], cfg)
    if differences:
        raise RefusedStartError(
            f"{run} holds a run of other settings ({name_differences(differences)}): choose another folder with "
            f"hydra.run.dir=FOLDER, or take its settings; {spell_override('resume', run)} goes on with more passes, "
            "other rates, trainers"
        )


def _check_fixed(cfg: DictConfig, run: Path) -> None:
    """See that what a resumed run may not change is as it was."""
    kept = read_settings(run) or read_hydra(run)
    old = ("method.batch_size",) if read_joint_batch(run / "last.ckpt") is None else ()
    for group in FIXED + old if kept is not None else ():
        assert kept is not None
        if OmegaConf.select(kept[0], group) != OmegaConf.select(cfg, group):
            overrides = " ".join(kept[1])
            raise RefusedStartError(
                f"{cfg.resume} was started with another {group}; resume it with its overrides: {overrides}"
            )


@contextmanager
def hydra_goes_back(run: Path) -> Iterator[None]:
    """Let ``.hydra`` in a run's own folder say what ``settings.yaml`` does, where a start there fails."""
    try:
        yield
    except BaseException:
        if find_rank().number == 0 and run.resolve() == run_folder().resolve():
            restore_hydra(run)
        raise


@contextmanager
def say_how_to_go_on(run: Path) -> Iterator[None]:
    """Give Ctrl-C and SIGTERM the command that goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(_describe_way(run)) from stop
    except Terminated as stop:
        raise Terminated(_describe_way(run)) from stop


def _describe_way(run: Path) -> str:
    sweep = find_sweep()
    if sweep and HydraConfig.get().sweeper.get("storage") is not None:
        return "the same command without hydra.sweep.dir goes on in the study"
    if sweep:
        return f"the same command with {spell_override('hydra.sweep.dir', sweep)} goes on"
    return f"the same command with {spell_override('resume', run)} goes on" if (run / "last.ckpt").is_file() else ""


def check_passes(checkpoint: Path, passes: int) -> None:
    """See that there are no fewer passes than a checkpoint has seen.

    Raises:
        ValueError: there are.
    """
    seen = load_whole(checkpoint)["loops"]["fit_loop"]["epoch_progress"]["current"]
    if passes < seen["started"]:
        within = " and a part of the next" if seen["processed"] < seen["started"] else ""
        raise ValueError(
            f"method.passes must be at least {seen['started']} to go on from {checkpoint}, which has done "
            f"{seen['processed']}{within}, got {passes}"
        )


def check_joint_batch(checkpoint: Path, cfg: DictConfig) -> None:
    """See that all processes together take as many images per update as before; ``auto`` will.

    Raises:
        ValueError: they do not.
    """
    joint, batch_size, processes = read_joint_batch(checkpoint), cfg.method.batch_size, count_processes(cfg)
    if joint is None or batch_size == AUTO_SIZE or batch_size * processes == joint:
        return
    advice = f"method.batch_size={joint // processes}" if joint % processes == 0 else f"processes that divide {joint}"
    raise ValueError(
        f"{checkpoint} is of {joint} images per update, method.batch_size times processes, not of {batch_size} times "
        f"{processes}: give {advice}, with {spell_override('resume', checkpoint.parent)}"
    )


def check_num_images(checkpoint: Path, num_images: int) -> None:
    """See that a checkpoint within a pass is of as many images.

    Raises:
        ValueError: it is not, and the rest of the pass would be of other batches.
    """
    loader = _read_loader(checkpoint)
    if "joint_batch_size" in loader and loader["images"] != num_images and is_within_epoch(loader):
        raise ValueError(
            f"{checkpoint} stopped within a pass over {loader['images']} train images, and there are {num_images} now: "
            "have the same again (images-train.txt beside it names them), or train anew in another folder"
        )


def read_joint_batch(checkpoint: Path) -> int | None:
    """Images per update, of all processes, of the run that left a checkpoint; ``None`` if it does not say."""
    return _read_loader(checkpoint).get("joint_batch_size")


def _read_loader(checkpoint: Path) -> dict[str, int]:
    """The state of the loader of train images; empty where there is none."""
    loop = load_whole(checkpoint).get("loops", {}).get("fit_loop", {})
    loaders = loop.get("state_dict", {}).get("combined_loader")
    return loaders[0] if loaders else {}
