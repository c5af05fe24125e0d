"""The cartoon portraits as an image source: drawn when asked for, with their labels."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

from asyrp_lit.data.avatars.dataset import draw_pixels, pixels_to_images, select_portraits, stack_labels
from asyrp_lit.data.avatars.traits import check_label, sample_traits
from asyrp_lit.data.source import ImageItem


def read_condition(where: Mapping[str, object] | None) -> dict[str, tuple[str, ...]]:
    """A condition on labels as it comes from YAML, checked: label name -> allowed classes.

    Labels are drawn independently and no class is impossible: with known names and no empty list, some portrait fits.

    Raises:
        ValueError: a label or class does not exist, or a label allows nothing.
    """
    condition = {}
    for name, allowed in (where or {}).items():
        values = (allowed,) if isinstance(allowed, str) else tuple(allowed) if isinstance(allowed, Sequence) else ()
        if not values:
            hint = "put quotes around no and yes in YAML"
            raise ValueError(f"where.{name} must be a class name or a list of some, not {allowed!r}; {hint}")
        for value in values:
            check_label(name, value)
        condition[name] = values
    return condition


class PortraitSource:
    """The first portraits of a split that meet a condition, as an ``ImageSource`` with six labels.

    Args:
        split: ``train``, ``val``, ``test``, or any other name for fresh portraits.
        num_images: how many.
        size: edge in pixels.
        where: label name -> class name or several, as in ``traits.matches``; ``None`` takes every portrait.

    Raises:
        ValueError: a number is below 1, or no portrait can meet ``where``.
    """

    def __init__(self, split: str, num_images: int, size: int = 64, where: Mapping[str, object] | None = None) -> None:
        if num_images < 1 or size < 1:
            raise ValueError(f"num_images and size must be 1 or more; got {num_images=}, {size=}")
        self.name = f"avatars-{split}"
        self.split = split
        self.size = size
        #: Number of each portrait in its split.
        self.indices = select_portraits(split, num_images, read_condition(where))
        self.keys = [f"{split}-{index:06d}" for index in self.indices]
        #: (N, 6) int64 in the order of ``LABELS``, -1 where undefined.
        self.labels = stack_labels([sample_traits(split, index) for index in self.indices])

    def __len__(self) -> int:
        """Number of portraits."""
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageItem:
        """Portrait ``index`` of this source, not of the split."""
        pixels = draw_pixels(self.indices[index], self.split, self.size)
        return ImageItem(pixels_to_images(pixels[None])[0], self.labels[index])

    def fingerprint(self) -> str:
        """Hex digits over the keys and all pixels, so that a change of the drawing shows; draws everything once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(f"{self.size} px\n".encode())
        for key, index in zip(self.keys, self.indices, strict=True):
            digest.update(key.encode())
            digest.update(draw_pixels(index, self.split, self.size).tobytes())
        return digest.hexdigest()[:16]
