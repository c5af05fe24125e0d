"""Which of several runs no other beats in every metric."""

import math
from collections.abc import Sequence


def find_front(points: Sequence[Sequence[float] | None]) -> list[bool]:
    """Whether each point is on the Pareto front, where higher is better in every coordinate.

    A point is off it if another is at least as good everywhere and better somewhere; equal points are on it together.

    Args:
        points: one sequence of numbers each, of one length; ``None``, or with a NaN, is never on the front.
    """
    known = [None if point is None or any(map(math.isnan, point)) else tuple(point) for point in points]
    rivals = {point for point in known if point is not None}
    return [point is not None and not any(_beats(rival, point) for rival in rivals) for point in known]


def _beats(rival: Sequence[float], point: Sequence[float]) -> bool:
    return rival != point and all(theirs >= own for theirs, own in zip(rival, point, strict=True))
