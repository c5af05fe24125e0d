"""Some images of a source, as a source of their own."""

import hashlib
from collections.abc import Sequence

from asyrp_lit.data.source import ImageItem, ImageSource


class ImageSubset:
    """Chosen images of a source in a given order.

    Args:
        source: the whole.
        indices: places in it, at least one, each once.

    Raises:
        ValueError: no index, one twice, or one out of range.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        if not indices or len(set(indices)) != len(indices) or not 0 <= min(indices) <= max(indices) < len(source):
            raise ValueError(f"indices must be some of 0 to {len(source) - 1}, each once, got {list(indices)}")
        self.source = source
        self.indices = list(indices)
        self.name = source.name
        self.size = source.size
        self.keys = [source.keys[index] for index in indices]

    def __len__(self) -> int:
        """Number of chosen images."""
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``index`` of the chosen ones."""
        return self.source[self.indices[index]]

    def fingerprint(self) -> str:
        """Hex digits over the whole source's and the chosen keys."""
        chosen = "\n".join((self.source.fingerprint(), *self.keys))
        return hashlib.sha256(chosen.encode(errors="surrogateescape")).hexdigest()[:16]
