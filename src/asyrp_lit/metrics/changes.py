"""What an edit changes, label by label, without a target: the oracle before and after."""

from typing import NamedTuple

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED
from asyrp_lit.shapes import Labels


class LabelChange(NamedTuple):
    """One label over some images.

    Attributes:
        rate: share in [0, 1] of the images with this label that have another class after the edit; NaN without any.
        towards: new class -> share of the images that have it now and had not; ``undefined`` where the label is lost.
    """

    rate: float
    towards: dict[str, float]


def count_changes(before: Labels, after: Labels) -> dict[str, LabelChange]:
    """Label name -> what became of it; images on which it was undefined (-1) are left out.

    Args:
        before: (B, 6) the oracle's labels of plain reconstructions, in the order of ``LABELS``.
        after: (B, 6) those of the edits.
    """
    changes = {}
    for column, (name, classes) in enumerate(LABELS.items()):
        defined = before[:, column] != UNDEFINED
        old, new = before[defined, column], after[defined, column]
        names = dict(enumerate(classes)) | {UNDEFINED: "undefined"}
        shares = {names[index]: float(((new == index) & (old != index)).float().mean()) for index in names}
        towards = {value: share for value, share in shares.items() if share > 0}
        changes[name] = LabelChange(float((new != old).float().mean()), towards)
    return changes


def summarise_changes(changes: dict[str, LabelChange], least: float = 0.2, most: int = 3) -> str:
    """The labels that changed most in words, such as ``glasses 0.75 (sunglasses 0.50)  skin 0.25 (dark 0.25)``.

    Args:
        changes: from ``count_changes``.
        least: rates below are not named.
        most: labels to name.
    """
    named = sorted((item for item in changes.items() if item[1].rate >= least), key=lambda item: -item[1].rate)[:most]
    words = []
    for label, change in named:
        value, share = max(change.towards.items(), key=lambda item: item[1])
        words.append(f"{label} {change.rate:.2f} ({value} {share:.2f})")
    return "  ".join(words) or f"no label at {least:.2f} or more"
