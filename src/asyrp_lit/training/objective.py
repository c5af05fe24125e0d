"""What training minimises: the choices of the loss, and its value per sample."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from asyrp_lit.losses.directional import LossForm
from asyrp_lit.shapes import PerSample

ClipSource = Literal["x_0", "pred_x0"]


@dataclass(frozen=True)
class LossRecipe:
    """What is minimised: w_clip * directional(P_edit) + w_l1 * cos_text * mean|P_edit - P_source| + w_keep * keep.

    Attributes:
        w_clip: weight of the directional CLIP loss.
        w_l1: weight of the reconstruction term, before cos_text.
        form: ``log`` as in the released code, ``cosine`` as in the paper.
        clip_source: the source image of the CLIP direction: the real ``x_0`` (released code) or P_t of the unedited
            trajectory, ``pred_x0`` (paper).
        w_keep: weight of ``KeptReadings`` between P_source and P_edit; not in the paper.

    Raises:
        ValueError: a choice does not exist, or a weight is negative.
    """

    w_clip: float = 1.0
    w_l1: float = 3.0
    form: LossForm = "log"
    clip_source: ClipSource = "x_0"
    w_keep: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("form", get_args(LossForm)), ("clip_source", get_args(ClipSource))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"method.loss.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("w_clip", "w_l1", "w_keep"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"method.loss.{name} must be 0 or more, got {getattr(self, name)!r}")


class Objective(NamedTuple):
    """Loss per sample and its parts."""

    total: PerSample
    clip: PerSample
    l1: PerSample
    keep: PerSample
