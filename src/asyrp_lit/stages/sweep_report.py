"""A sweep, or any folder of runs, as one HTML page and as a run of Weights & Biases."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import wandb
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig

from asyrp_lit.files import write_atomically
from asyrp_lit.plots.report import RunRow, render_report
from asyrp_lit.stages.guard import console_log, errors_as_messages
from asyrp_lit.stages.read_runs import read_runs

log = logging.getLogger(__name__)

_KEYS = """
keys (conf/report.yaml):
  out=PATH                               the page; without it report.html in the folder
  objective=[success,preservation]       metrics of the Pareto front; with a minus before one that shall be low
  embed_mib=50                           above so many MiB of grids the page links to them
  logger=wandb                           the table and the grids also to Weights & Biases, in the group of the sweep
  logger.wandb.offline=true              into a folder that wandb sync uploads
"""


def sweep_report(arguments: Sequence[str], conf: Path) -> None:
    """Write the page of a folder as the command line says.

    Args:
        arguments: of the command line, without the script.
        conf: the folder of configuration.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="sweep_report.py", description=__doc__, epilog=_KEYS, formatter_class=raw, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep, or with run folders in it")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(arguments)
    with (
        console_log(),
        errors_as_messages(),
        initialize_config_dir(str(conf.resolve()), version_base="1.3"),
    ):
        write_report(compose("report", options.overrides), options.folder.resolve())


def write_report(cfg: DictConfig, folder: Path) -> None:
    """Read the runs, write the page, log the table where that is asked for.

    Raises:
        FileNotFoundError, ValueError: the folder or a setting is not possible.
        OSError: the page cannot be written.
    """
    if not isinstance(cfg.objective, ListConfig) or not cfg.objective:
        raise ValueError(f"objective must be a list of metrics, such as [success,preservation], got {cfg.objective}")
    if type(cfg.embed_mib) not in (int, float) or not cfg.embed_mib >= 0:
        raise ValueError(f"embed_mib must be a number of MiB, 0 or more, got {cfg.embed_mib!r}")
    objective = [str(name) for name in cfg.objective]
    rows = read_runs(folder, objective)
    page = (Path(cfg.out) if cfg.out else folder / "report.html").resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    html = render_report(folder.name, rows, describe_objective(objective), page.parent, int(cfg.embed_mib * 2**20))
    write_atomically(page, html.encode())
    best = ", ".join(row.name for row in rows if row.on_front)
    log.info("%d runs, on the front of %s: %s", len(rows), describe_objective(objective), best or "none")
    if cfg.logger.wandb is not None:
        log_table(cfg, rows, folder)
    log.info("page: %s", page)


def describe_objective(objective: Sequence[str]) -> str:
    """``success (high) and edit_lpips (low)``."""
    return " and ".join(f"{name.removeprefix('-')} ({'low' if name.startswith('-') else 'high'})" for name in objective)


def log_table(cfg: DictConfig, rows: Sequence[RunRow], folder: Path) -> None:
    """The same table with its grids as a run of W&B, in the group that the runs of the sweep have."""
    chosen = cfg.logger.wandb
    settings = list(dict.fromkeys(name for row in rows for name in row.settings))
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    table = wandb.Table(columns=["run", "state", "front", *settings, *metrics, "minutes", "grid", "error"])
    for row in rows:
        grid = wandb.Image(str(row.grid)) if row.grid else None
        values = [*(row.settings.get(name) for name in settings), *(row.metrics.get(name) for name in metrics)]
        table.add_data(row.name, row.state, row.on_front, *values, row.minutes, grid, row.error or None)
    run = wandb.init(
        project=chosen.project,
        group=chosen.group or folder.name,
        name=f"report-{folder.name}",
        job_type="report",
        dir=folder,
        mode="offline" if chosen.offline else None,
    )
    with run:
        run.log({"runs": table} | {f"grid/{row.name}": wandb.Image(str(row.grid)) for row in rows if row.grid})
        run.summary["front"] = [row.name for row in rows if row.on_front]
