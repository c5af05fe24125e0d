"""t_edit and t_boost from LPIPS curves (Asyrp, section 4 and appendix)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asyrp_lit.diffusion.asyrp import Interval

#: LPIPS(x_0, P_t) that an edit may need, times cos_text (Asyrp, section 4.1).
EDIT_THRESHOLD = 0.33
#: LPIPS(x_0, x_t) from which on noise no longer hurts (Asyrp, section 4.2).
BOOST_THRESHOLD = 1.2


@dataclass(frozen=True)
class LPIPSCurves:
    """Mean LPIPS along the inversion, at ascending timesteps.

    Attributes:
        timesteps: where the curves were measured.
        pred_x0: LPIPS(x_0, P_t).
        x_t: LPIPS(x_0, x_t).
        num_images: how many images the means are over.
    """

    timesteps: tuple[int, ...]
    pred_x0: tuple[float, ...]
    x_t: tuple[float, ...]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LPIPSCurves":
        """The inverse of ``to_dict``."""
        return cls(tuple(values["timesteps"]), tuple(values["pred_x0"]), tuple(values["x_t"]), values["num_images"])


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
            raise ValueError(f"interval.{name} must be 0 to 1000, got {value}")
    return interval
