"""What the folders of runs say about them: overrides, metrics, picture, error."""

import logging
from pathlib import Path

from natsort import natsorted
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asyrp_lit.metrics.pareto import find_front
from asyrp_lit.plots.report import FAILED, FINISHED, UNFINISHED, RunRow
from asyrp_lit.stages.guard import load_metrics
from asyrp_lit.stages.settings import SETTINGS_FILE, read_started

log = logging.getLogger(__name__)

#: The script whose runs are read, as Hydra calls its jobs.
_JOB = "train"
#: Most characters of an error that are shown.
_ERROR_LENGTH = 2000


def read_runs(folder: Path, objective: list[str]) -> list[RunRow]:
    """The runs of train.py in a folder and below it, in the order of their names.

    A run that only resumed another one's folder is left out: that folder has its results.

    Args:
        folder: of a sweep, or any with run folders in it.
        objective: metrics of the Pareto front; higher is better, with a minus before the name lower is.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no runs of train.py.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: name that of a sweep, such as outputs/sweeps/train/TIME")
    rows, others = [], 0
    for path in natsorted(folder.rglob(".hydra"), key=str):
        job, overrides, resumed = _read_hydra(path)
        if job == _JOB and (not resumed or (path.parent / SETTINGS_FILE).is_file()):
            rows.append(_read_run(path.parent, folder, overrides))
        others += job != _JOB
    if not rows:
        found = f"only {others} of other scripts" if others else "no .hydra/overrides.yaml in or below it"
        raise ValueError(
            f"{folder} has no runs of train.py ({found}): name the folder of a sweep, such as "
            "outputs/sweeps/train/TIME, or one with run folders in it"
        )
    if others:
        log.info("%d runs of other scripts are left out", others)
    front = find_front([_locate(row.metrics, objective) for row in rows])
    return [row._replace(on_front=on_front) for row, on_front in zip(rows, front, strict=True)]


def _read_hydra(folder: Path) -> tuple[str, list[str], bool]:
    """What job it was of, its overrides, and whether it resumed another run; a job cut off in writing has none."""
    try:
        job = OmegaConf.select(OmegaConf.load(folder / "hydra.yaml"), "hydra.job.name")
        overrides = [str(override) for override in OmegaConf.load(folder / "overrides.yaml")]
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        log.warning("%s cannot be read and is left out: %s", folder, error)
        return "unreadable", [], False
    return str(job), overrides, any(override.startswith("resume=") for override in overrides)


def _read_run(run: Path, folder: Path, overrides: list[str]) -> RunRow:
    """One run; its place on the front is found later."""
    metrics, error = _read_metrics(run / "metrics.json")
    log_file, grid = run / "error.log", run / "grid.png"
    if not metrics and not error and log_file.is_file():
        error = log_file.read_text(errors="replace").strip()[-_ERROR_LENGTH:] or "error.log is empty"
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return RunRow(
        name=str(run.relative_to(folder)) if run != folder else run.name,
        state=FINISHED if metrics else FAILED if error else UNFINISHED,
        settings={key: value for key, _, value in pairs},
        metrics=metrics,
        minutes=_measure_minutes(run) if metrics else None,
        grid=grid if grid.is_file() else None,
        error=error,
        on_front=False,
    )


def _read_metrics(path: Path) -> tuple[dict[str, float], str]:
    """The numbers of metrics.json, none where it is not there; and what is wrong with it."""
    if not path.is_file():
        return {}, ""
    try:
        return load_metrics(path), ""
    except ValueError as error:
        return {}, str(error)


def _measure_minutes(run: Path) -> float:
    """From a run's first start to its metrics; of a resumed run with the pause."""
    started = read_started(run) or (run / ".hydra/config.yaml").stat().st_mtime  # Hydra writes its own at every start
    return (run.joinpath("metrics.json").stat().st_mtime - started) / 60


def _locate(metrics: dict[str, float], objective: list[str]) -> list[float] | None:
    """The point of a run, higher is better; ``None`` where it lacks a metric."""
    names = [(name.removeprefix("-"), -1 if name.startswith("-") else 1) for name in objective]
    return [sign * metrics[name] for name, sign in names] if all(name in metrics for name, _ in names) else None
