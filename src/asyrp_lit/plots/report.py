"""Runs beside each other on one HTML page: a table to sort, their grids, and those that no other beats."""

import base64
import math
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

#: States of a run.
FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"
_TEMPLATE = "plots/report.html.jinja"


class RunRow(NamedTuple):
    """A run as the page shows it.

    Attributes:
        name: its folder, as seen from that of the page.
        state: ``finished``, ``failed`` or ``unfinished``.
        settings: what was overridden, key -> value.
        metrics: name -> number.
        minutes: how long it took; ``None`` where it has not finished.
        grid: its picture, a PNG; ``None`` where there is none.
        error: why it failed; empty where it did not.
        on_front: whether no other run beats it.
    """

    name: str
    state: str
    settings: dict[str, str]
    metrics: dict[str, float]
    minutes: float | None
    grid: Path | None
    error: str
    on_front: bool


def split_settings(rows: Sequence[RunRow]) -> tuple[list[str], dict[str, str]]:
    """The settings in which runs differ, and those that all share; in the order in which the runs name them."""
    names = list(dict.fromkeys(name for row in rows for name in row.settings))
    shared = {
        name: rows[0].settings[name]
        for name in names
        if len(rows) > 1 and all(row.settings.get(name) == rows[0].settings.get(name) for row in rows)
    }
    return [name for name in names if name not in shared], shared


def render_report(title: str, rows: Sequence[RunRow], objective: str, folder: Path, embedded_bytes: int) -> str:
    """The page, without any file or address beside it unless the grids are too large together.

    Args:
        title: headline.
        rows: the runs, one or more.
        objective: what the front is of, in words.
        folder: where the page will lie, for links.
        embedded_bytes: most bytes of grids in all that are put into the page; if they have more, all are links.

    Raises:
        OSError: a grid cannot be read.
    """
    grids = [row.grid for row in rows if row.grid is not None]
    embed = sum(grid.stat().st_size for grid in grids) <= embedded_bytes
    varied, shared = split_settings(rows)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = format_number
    environment.filters["sort_key"] = _make_sort_key
    template = environment.from_string(files("asyrp_lit").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title,
        rows=rows,
        objective=objective,
        varied=varied,
        shared=shared,
        metrics=list(dict.fromkeys(name for row in rows for name in row.metrics)),
        counts={state: sum(row.state == state for row in rows) for state in (FINISHED, FAILED, UNFINISHED)},
        pictures={str(row.grid): _address(row.grid, folder, embed) for row in rows if row.grid is not None},
    )


def format_number(value: float) -> str:
    """A metric in at most four significant places after the point."""
    return f"{value:.4f}".rstrip("0").rstrip(".") if math.isfinite(value) else str(value)


def _make_sort_key(value: object) -> str:
    """What the page sorts a cell by: numbers as such, also those in text; NaN and nothing as empty, which come last."""
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    return "" if math.isnan(number) else repr(number)


def _address(grid: Path, folder: Path, embed: bool) -> str:
    if embed:
        return "data:image/png;base64," + base64.b64encode(grid.read_bytes()).decode()
    return quote(Path(os.path.relpath(grid, folder)).as_posix())
