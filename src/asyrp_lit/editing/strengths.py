"""Strengths as a person writes them: one or several, of one direction or of several together."""

import math
from collections.abc import Sequence
from itertools import product
from numbers import Real
from typing import Any

#: One number or several.
Strength = float | int | Sequence[float | int]


def to_python(value: Any) -> Any:
    """Numbers and arrays of numpy and torch as Python's numbers and lists; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _read_numbers(value: object) -> tuple[float, ...]:
    value = to_python(value)
    entries: list[Any] = (
        [*map(to_python, value)] if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    )
    for entry in entries:
        if isinstance(entry, bool) or not isinstance(entry, Real) or not math.isfinite(entry):
            raise ValueError(f"strength must be finite numbers, got {entry!r}")
    if not entries:
        raise ValueError("strength names no number; give one or more, such as strength=[0.5,1]")
    return tuple(float(entry) for entry in entries)


def spread_strengths(strength: object, num_directions: int) -> list[tuple[float, ...]]:
    """The strengths of every direction.

    Args:
        strength: for one direction a number or a list; for several a number for all of them, or a list with an entry a
            direction, each a number or a list. Arrays of numpy and torch count as lists.
        num_directions: how many.

    Raises:
        ValueError: not finite numbers, none, or another number of entries than directions.
    """
    strength = to_python(strength)
    if num_directions == 1:
        return [_read_numbers(strength)]
    if not isinstance(strength, Sequence) or isinstance(strength, str):
        return [_read_numbers(strength)] * num_directions
    if len(strength) != num_directions:
        raise ValueError(
            f"strength must have one entry for each of the {num_directions} directions (a number or a list each), or "
            f"be one number, got {list(strength)}"
        )
    return [_read_numbers(entry) for entry in strength]


def check_distinct(strengths: Sequence[float]) -> None:
    """See that strengths have names of their own, which have six digits.

    Raises:
        ValueError: two that differ have one.
    """
    named: dict[str, float] = {}
    for strength in strengths:
        other = named.setdefault(f"{strength:g}", strength)
        if other != strength:
            raise ValueError(f"strengths {other} and {strength} would be one in names, which have six digits")


def combine_strengths(per_direction: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Every combination, the last direction's strengths changing fastest."""
    return list(product(*per_direction))


def make_loop(per_direction: Sequence[Sequence[float]], num_frames: int) -> list[tuple[float, ...]]:
    """Strengths of an animation that goes from the least to the most of every direction and back, ready to repeat.

    A direction with one strength goes from 0 to it.

    Args:
        per_direction: as from ``spread_strengths``.
        num_frames: frames of a whole loop, 3 or more.

    Raises:
        ValueError: fewer frames.
    """
    if num_frames < 3:
        raise ValueError(f"animate_frames must be 3 or more, got {num_frames}")
    way_up = num_frames // 2 + 1
    ends = [(min(s), max(s)) if len(set(s)) > 1 else (0.0, s[0]) for s in per_direction]
    frames = [tuple(a + (b - a) * k / (way_up - 1) for a, b in ends) for k in range(way_up)]
    return frames + frames[-2:0:-1]


def name_combination(names: Sequence[str], strengths: Sequence[float]) -> str:
    """Column name, such as ``strength 0.5``; of several directions ``smiling 1, glasses 0.7``."""
    if len(names) == 1:
        return f"strength {strengths[0]:g}"
    return ", ".join(f"{name} {strength:g}" for name, strength in zip(names, strengths, strict=True))
