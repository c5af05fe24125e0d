"""t_edit and t_boost from LPIPS curves (Asyrp, section 4 and appendix)."""

from collections.abc import Sequence
from dataclasses import dataclass

from asyrp_lit.diffusion.asyrp import Interval

#: LPIPS(x_0, P_t) that an edit may need, times cos_text (Asyrp, section 4.1).
EDIT_THRESHOLD = 0.33
#: LPIPS(x_0, x_t) from which on noise no longer hurts (Asyrp, section 4.2).
BOOST_THRESHOLD = 1.2
#: Multiples of the edit threshold at which a sweep tries t_edit.
_EDIT_MULTIPLES = (0.5, 1.0, 3.0, 9.0)
#: Shares of the boost threshold at which a sweep tries t_boost, beside no boosting.
_BOOST_SHARES = (1 / 3, 2 / 3, 1.0)
#: Share of the largest LPIPS(x_0, x_t) that stands for a boost threshold which that never reaches.
_REACHED_SHARE = 0.75


@dataclass(frozen=True)
class LPIPSCurves:
    """LPIPS along the inversion, averaged over images, at ascending timesteps.

    Attributes:
        timesteps: where the curves were measured.
        pred_x0: LPIPS(x_0, P_t).
        x_t: LPIPS(x_0, x_t).
        num_images: how many images they are of.
    """

    timesteps: tuple[int, ...]
    pred_x0: tuple[float, ...]
    x_t: tuple[float, ...]
    num_images: int


def find_first_crossing(timesteps: Sequence[int], curve: Sequence[float], threshold: float) -> int | None:
    """First t in ascending order with ``curve >= threshold``; ``None`` where the curve stays below.

    The curves are not monotone at their ends, so this never bisects.
    """
    return next((t for t, value in zip(timesteps, curve, strict=True) if value >= threshold), None)


def choose_interval(
    curves: LPIPSCurves,
    cos_text: float,
    edit_threshold: float = EDIT_THRESHOLD,
    boost_threshold: float = BOOST_THRESHOLD,
) -> Interval:
    """The interval for an attribute: t_edit where P_t reaches 0.33 cos_text, t_boost where x_t reaches 1.2.

    Args:
        curves: measured on images of the domain.
        cos_text: cosine of the two bare prompts, in [-1, 1].
        edit_threshold, boost_threshold: the paper's 0.33 and 1.2.

    Returns:
        The interval; ``t_boost`` is 0 (no boosting) where x_t never gets that far from x_0, as in small images.

    Raises:
        ValueError: P_t never reaches the edit threshold.
    """
    t_edit = find_first_crossing(curves.timesteps, curves.pred_x0, edit_threshold * cos_text)
    if t_edit is None:
        raise ValueError(
            f"LPIPS(x_0, P_t) stays below {edit_threshold:g} * cos_text = {edit_threshold * cos_text:.3f} (its largest "
            f"value is {max(curves.pred_x0):.3f}): lower interval.edit_threshold or choose interval=fixed"
        )
    t_boost = find_first_crossing(curves.timesteps, curves.x_t, boost_threshold)
    return Interval(t_edit, 0 if t_boost is None else t_boost)


def check_interval(t_edit: int, t_boost: int, t_start: int = 1000) -> Interval:
    """A hand-picked interval; 0 means 0.

    Raises:
        ValueError: a value is outside 0 to 1000.
    """
    interval = Interval(t_edit, t_boost, t_start)
    for name, value in interval._asdict().items():
        if not 0 <= value <= 1000:
            raise ValueError(f"{name} must be 0 to 1000, got {value}")
    return interval


def propose_t_edits(curves: LPIPSCurves, threshold: float, t_start: int = 1000) -> tuple[int, ...]:
    """Values of t_edit that are worth comparing, ascending: where P_t reaches half of the threshold to nine times it.

    Args:
        curves: measured on images of the domain.
        threshold: the edit threshold times cos_text.
        t_start: above it nothing is edited, and nothing proposed.
    """
    crossings = (find_first_crossing(curves.timesteps, curves.pred_x0, m * threshold) for m in _EDIT_MULTIPLES)
    return tuple(sorted({t for t in crossings if t is not None and t <= t_start}))


def propose_t_boosts(curves: LPIPSCurves, threshold: float = BOOST_THRESHOLD) -> tuple[int, ...]:
    """Values of t_boost that are worth comparing, ascending: 0, and where x_t reaches thirds of the boost threshold.

    Args:
        curves: measured on images of the domain.
        threshold: the boost threshold; of small images, which never reach it, three quarters of the largest distance.
    """
    top = threshold if max(curves.x_t) >= threshold else _REACHED_SHARE * max(curves.x_t)
    crossings = (find_first_crossing(curves.timesteps, curves.x_t, share * top) for share in _BOOST_SHARES)
    return tuple(sorted({0, *(t for t in crossings if t is not None)}))
