"""Where images come from: one small protocol that inversion and the stores rely on."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


class ImageItem(NamedTuple):
    """One image of a source.

    Attributes:
        x_0: (3, S, S) float32 in [-1, 1].
        labels: (L,) int64 class indices, -1 where undefined; empty (L = 0) for sources without labels.
    """

    x_0: Float[Tensor, "3 size size"]
    labels: Int[Tensor, " labels"]


@runtime_checkable
class ImageSource(Protocol):
    """An ordered, finite set of images of one size."""

    #: Short name for folders and reports, such as ``avatars-train`` or ``folder``.
    name: str
    #: Edge of every image in pixels.
    size: int
    #: One stable name per image, in order; unique.
    keys: list[str]

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> ImageItem:
        """Image ``index``."""

    def fingerprint(self) -> str:
        """Hex digits that change whenever any image would: part of the key of a latent store."""
