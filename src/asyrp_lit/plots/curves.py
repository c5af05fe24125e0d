"""Curves: how the editing interval is found, and how training went."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EDIT, BOOST, GREY = "#0072b2", "#d55e00", "#555555"
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
_SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def _new_axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), dpi=120, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, xlabel, ylabel)
    return figure, axes


def style_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Names, a light grid, no frame."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def mark_timestep(axes: Axes, t: int, name: str, color: str, height: float) -> None:
    """A vertical line, named at a height in shares of the axes on the side with more room."""
    axes.axvline(t, color=color, linestyle=":", linewidth=1.5)
    right = t > sum(axes.get_xlim()) / 2
    axes.annotate(
        f"{name} = {t}",
        (t, height),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if right else 5, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="center",
        color=color,
        bbox=BOX,
    )


def mark_threshold(axes: Axes, value: float, name: str, color: str) -> None:
    """A horizontal line, named above its right end."""
    axes.axhline(value, color=color, linestyle="--", linewidth=1)
    axes.annotate(
        f"{name} {value:.3g}",
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=color,
        size=8,
        bbox=BOX,
    )


def _name_series(axes: Axes, note: str | None = None) -> None:
    """The names of the lines, as they are written, under a note."""
    for text in axes.legend(title=note, title_fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


def draw_lpips_curves(
    timesteps: Sequence[int],
    lpips_pred_x0: Sequence[float],
    lpips_xt: Sequence[float],
    threshold_edit: float,
    threshold_boost: float,
    t_edit: int,
    t_boost: int,
    t_start: int = 1000,
) -> Figure:
    """The two LPIPS curves along the inversion with their thresholds and the interval (Asyrp, section 4, figure 4).

    Args:
        timesteps: ascending.
        lpips_pred_x0: LPIPS(x_0, P_t) at each timestep.
        lpips_xt: LPIPS(x_0, x_t) at each timestep.
        threshold_edit: 0.33 cos_text of the attribute.
        threshold_boost: 1.2 in the paper.
        t_edit: edited down to here.
        t_boost: boosted below here; 0 means never.
        t_start: edited from here down to t_edit; marked where it leaves timesteps unedited.

    Raises:
        ValueError: the curves and ``timesteps`` differ in length.
    """
    if not len(timesteps) == len(lpips_pred_x0) == len(lpips_xt):
        lengths = (len(timesteps), len(lpips_pred_x0), len(lpips_xt))
        raise ValueError(f"timesteps and both curves must be of one length, got {lengths}")
    figure, axes = _new_axes("timestep t", "LPIPS to x_0")
    axes.plot(timesteps, lpips_pred_x0, color=EDIT, label="P_t, the predicted x_0")
    axes.plot(timesteps, lpips_xt, color=BOOST, label="x_t, the noisy image")
    end = max([*timesteps, t_edit, t_boost, 1])  # of two steps only t = 0 is measured
    axes.set(xlim=(0, end), ylim=(0, 1.2 * max([*lpips_pred_x0, *lpips_xt, threshold_edit, threshold_boost])))
    axes.axvspan(t_edit, min(t_start, end), color=EDIT, alpha=0.07, linewidth=0)
    axes.axvspan(0, t_boost, color=BOOST, alpha=0.07, linewidth=0)
    mark_threshold(axes, threshold_edit, "edit threshold", EDIT)
    mark_threshold(axes, threshold_boost, "boost threshold", BOOST)
    mark_timestep(axes, t_edit, "t_edit", EDIT, 0.96)
    mark_timestep(axes, t_boost, "t_boost", BOOST, 0.89)
    if t_start < end:
        mark_timestep(axes, t_start, "t_start", EDIT, 0.96)
    edited = "t_edit ≤ t ≤ t_start" if t_start < end else "t ≥ t_edit"
    axes.set_title(f"Editing for {edited}, quality boosting for t < t_boost", loc="left", size=10, color=GREY)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _running_mean(values: Floats, window: int) -> Floats:
    """Centred, over what the window holds at the ends."""
    ones = np.ones(min(window, len(values)))
    smooth: Floats = np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")
    return smooth


def draw_loss_curve(
    steps: Sequence[int], series: Mapping[str, Sequence[float]], title: str = "", window: int | None = None
) -> Figure:
    """Losses over optimiser steps: the running mean over the faint raw values.

    Args:
        steps: ascending optimiser steps.
        series: name -> one value per step.
        title: in grey above the curves.
        window: steps that the running mean spans; ``None`` takes a twentieth of them, 1 shows raw values alone.

    Raises:
        ValueError: a series and ``steps`` differ in length.
    """
    window = max(1, len(steps) // 20) if window is None else window
    figure, axes = _new_axes("optimiser step", "loss")
    for index, (name, values) in enumerate(series.items()):
        if len(values) != len(steps):
            raise ValueError(f"series {name!r} has {len(values)} values for {len(steps)} steps")
        color = _SERIES[index % len(_SERIES)]
        raw = np.asarray(values, dtype=np.float64)
        if window > 1:
            axes.plot(steps, raw, color=color, alpha=0.25, linewidth=0.8)
        smooth = _running_mean(raw, window) if len(raw) else raw
        axes.plot(steps, smooth, color=color, linewidth=1.8, label=name)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", size=10, color=GREY, parse_math=False)
    if series:
        note = f"running mean over {window} steps" if window > 1 else None
        _name_series(axes, note)
    return figure


def draw_strength_curves(strengths: Sequence[float], series: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """What the oracle makes of edits over their strength, a line a direction.

    Args:
        strengths: ascending.
        series: name -> its oracle score in [0, 1] at every strength.
        title: in grey above the curves.

    Raises:
        ValueError: a series and ``strengths`` differ in length.
    """
    figure, axes = _new_axes("strength", "oracle's probability of the target")
    for index, (name, values) in enumerate(series.items()):
        if len(values) != len(strengths):
            raise ValueError(f"series {name!r} has {len(values)} values for {len(strengths)} strengths")
        axes.plot(strengths, values, color=_SERIES[index % len(_SERIES)], marker="o", markersize=4, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.set_title(title, loc="left", size=10, color=GREY, parse_math=False)
    if series:
        _name_series(axes)
    return figure
