"""The choice of t_edit and t_boost in one figure: the LPIPS curves, and where attributes meet them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from asyrp_lit.plots.curves import BOOST, EDIT, GREY, mark_threshold, mark_timestep, style_axes

#: Inches: left edge and width of the whole and of the zoomed axes, what is free below and above them, their least
#: height, and a line and a letter of the attributes beside them.
_WHOLE, _ZOOMED = (0.65, 4.3), (5.85, 3.8)
_BELOW, _ABOVE, _TALL = 0.9, 0.75, 3.2
_LINE, _LETTER = 0.24, 0.083
_SIZE = 9.5


class Curve(NamedTuple):
    """A mean over images, with their quartiles around it, at ascending timesteps."""

    timesteps: Sequence[int]
    mean: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]


class Mark(NamedTuple):
    """An attribute on the curve of P_t; ``t_edit`` is ``None`` where the curve stays below its threshold."""

    name: str
    cos_text: float
    threshold: float
    t_edit: int | None


def spread_labels(places: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending places, moved up and then down as far as they need to be ``gap`` apart and none above ``top``."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], top)
        top = moved[number] - gap
    return moved


def draw_interval(
    pred_x0: Curve,
    x_t: Curve,
    marks: Sequence[Mark],
    boost_threshold: float,
    t_boost: int | None,
    t_start: int,
    title: str,
) -> Figure:
    """Both LPIPS curves along the inversion, and beside them t_edit of every attribute on the lower end of P_t's.

    Args:
        pred_x0, x_t: LPIPS(x_0, P_t) and LPIPS(x_0, x_t).
        marks: the attributes.
        boost_threshold: 1.2 in the paper.
        t_boost: boosted below here; ``None`` where x_t never reaches the threshold.
        t_start: edited from here down; marked where it leaves timesteps unedited.
        title: what was measured on what.
    """
    figure, (whole, zoomed, names) = _new_figure(marks)
    top = 1 - 0.1 / figure.get_figheight()
    figure.text(whole.get_position().x0, top, title, va="top", size=11, parse_math=False)
    _draw_whole(whole, pred_x0, x_t, boost_threshold, t_boost)
    if t_start < pred_x0.timesteps[-1]:
        mark_timestep(whole, t_start, "t_start", GREY, 0.96)
    _draw_zoomed(zoomed, pred_x0, marks)
    _write_names(names, sorted(marks, key=lambda mark: (mark.t_edit is None, mark.threshold)), zoomed.get_ylim()[1])
    corner = zoomed.get_xlim()[1], zoomed.get_ylim()[1]
    whole.add_patch(Rectangle((0, 0), *corner, fill=False, edgecolor="black", linewidth=1, zorder=3))
    whole.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    return figure


def _new_figure(marks: Sequence[Mark]) -> tuple[Figure, list[Axes]]:
    """A figure as high as the attributes' lines and as wide as their names, with its three axes."""
    sum_left, beside = sum(_ZOOMED), 1.9 + _LETTER * max([len("attribute"), *(len(mark.name) for mark in marks)])
    tall = max(_TALL, (len(marks) + 2) * _LINE)
    width, height = sum_left + beside, _BELOW + tall + _ABOVE
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    axes = [
        figure.add_axes((left / width, _BELOW / height, wide / width, tall / height))
        for left, wide in (_WHOLE, _ZOOMED, (sum_left, beside))
    ]
    return figure, axes


def _plot(axes: Axes, curve: Curve, color: str, label: str) -> None:
    axes.fill_between(curve.timesteps, curve.lower, curve.upper, color=color, alpha=0.18, linewidth=0)
    marker = "o" if len(curve.timesteps) == 1 else None  # of two steps: t = 0 alone is measured
    axes.plot(curve.timesteps, curve.mean, color=color, label=label, linewidth=1.8, marker=marker)


def _draw_whole(axes: Axes, pred_x0: Curve, x_t: Curve, boost_threshold: float, t_boost: int | None) -> None:
    style_axes(axes, "timestep t", "LPIPS to x_0")
    _plot(axes, pred_x0, EDIT, "P_t, the predicted x_0")
    _plot(axes, x_t, BOOST, "x_t, the noisy image")
    highest = max(*pred_x0.upper, *x_t.upper, boost_threshold)
    axes.set(xlim=(0, max(pred_x0.timesteps[-1], 1)), ylim=(0, 1.15 * highest))
    mark_threshold(axes, boost_threshold, "boost threshold", BOOST)
    if t_boost is None:
        note = "x_t never reaches the boost threshold, t_boost = 0"
    else:
        note = "t_boost, where x_t reaches the boost threshold"
        axes.axvspan(0, t_boost, color=BOOST, alpha=0.07, linewidth=0)
        mark_timestep(axes, t_boost, "t_boost", BOOST, 0.89)
    axes.set_title(note, loc="left", size=10, color=GREY)


def _draw_zoomed(axes: Axes, curve: Curve, marks: Sequence[Mark]) -> None:
    style_axes(axes, "timestep t", "LPIPS(x_0, P_t)")
    reached = [mark for mark in marks if mark.t_edit is not None]
    right = 1.2 * max((mark.t_edit or 0 for mark in reached), default=curve.timesteps[-1])
    right = max(min(max(right, *curve.timesteps[:2]), curve.timesteps[-1]), 1)
    highest = 1.3 * max((mark.threshold for mark in reached), default=0.0)
    highest = highest if highest > 0 else max(curve.upper) or 1.0  # texts that have nothing in common
    axes.set(xlim=(0, right), ylim=(0, highest))
    _plot(axes, curve, EDIT, "")
    for mark in reached:
        number = _find_place(curve, mark)
        crossing = _find_crossing(curve, mark.threshold, number)
        t, height = curve.timesteps[number], curve.mean[number]
        axes.plot([crossing, right], [mark.threshold] * 2, color=EDIT, linewidth=0.8, alpha=0.7)
        axes.plot([t, t], [0, height], color=EDIT, linewidth=0.8, linestyle=":")
        axes.plot([t], [height], color=EDIT, marker="o", markersize=5, clip_on=False)
    axes.set_title("The framed part, with t_edit on P_t", loc="left", size=10, color=GREY)


def _find_place(curve: Curve, mark: Mark) -> int:
    return next(number for number, t in enumerate(curve.timesteps) if t == mark.t_edit)


def _find_crossing(curve: Curve, threshold: float, number: int) -> float:
    """Where the line drawn up to point ``number`` meets a threshold."""
    ends = slice(max(number - 1, 0), number + 1)
    return float(np.interp(threshold, curve.mean[ends], curve.timesteps[ends]))


def _write_names(axes: Axes, marks: Sequence[Mark], highest: float) -> None:
    """Names, cosines and t_edit from the lowest threshold up, each tied to its threshold by a line."""
    box = axes.get_window_extent()
    wide, tall = box.width / axes.figure.dpi, box.height / axes.figure.dpi
    axes.set(xlim=(0, wide), ylim=(0, highest))
    axes.set_axis_off()
    gap = _LINE / tall * highest
    top = highest - 1.2 * gap
    columns = ((0.4, "left"), (wide - 0.75, "right"), (wide - 0.15, "right"))
    places = spread_labels([top if mark.t_edit is None else max(mark.threshold, 0.0) for mark in marks], gap, top)
    for mark, place in zip(marks, places, strict=True):
        reached = mark.t_edit is not None
        words = (mark.name, f"{mark.cos_text:.3f}", str(mark.t_edit) if reached else "never")
        for (x, align), text in zip(columns, words, strict=True):
            color = "black" if reached else GREY
            axes.text(x, place, text, ha=align, va="center", size=_SIZE, color=color, parse_math=False)
        if reached:
            heights = [mark.threshold] * 2 + [place] * 2
            axes.plot([0, 0.05, 0.3, 0.36], heights, color=EDIT, linewidth=0.8, alpha=0.7)
    for (x, align), text in zip(columns, ("attribute", "cos_text", "t_edit"), strict=True):
        axes.text(x, highest, text, ha=align, va="center", size=_SIZE, color=GREY)
