"""Latents drawn at random, of which the frozen network makes the images itself."""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: How the fingerprint of random latents begins, and of nothing else.
DRAWN = "normal-seed"


class RandomItem(NamedTuple):
    """One latent.

    Attributes:
        x_T: (3, S, S) float32, standard normal.
        labels: (0,) int64: nothing is known about its image.
    """

    x_T: Float[Tensor, "3 size size"]
    labels: Int[Tensor, " labels"]


class RandomLatents:
    """Standard normal x_T in place of images: each depends on seed, split and its number only.

    Args:
        split: ``train``, ``val`` or any other name; no two have a latent in common.
        num_images: how many.
        size: edge in pixels.
        seed: 0 or more.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, split: str, num_images: int, size: int, seed: int = 0) -> None:
        for name, value, least in (("num_images", num_images, 1), ("size", size, 1), ("seed", seed, 0)):
            if type(value) is not int or value < least:
                raise ValueError(f"{name} of random latents must be a whole number, {least} or more, got {value!r}")
        self.name = f"random-{split}"
        self.size = size
        self.seed = seed
        self.keys = [f"{split}-{index:06d}" for index in range(num_images)]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> RandomItem:
        digest = hashlib.sha256(f"{self.seed} {self.keys[index]}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        x_T = torch.randn((3, self.size, self.size), generator=generator)
        return RandomItem(x_T, torch.empty(0, dtype=torch.int64))

    def fingerprint(self) -> str:
        """What decides the latents: seed and number."""
        return f"{DRAWN}{self.seed}-n{len(self)}"
