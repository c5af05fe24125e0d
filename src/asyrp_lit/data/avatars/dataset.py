"""The avatar data set: portraits as tensors, with a render cache on disk."""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from asyrp_lit.data.avatars.render import render_portrait
from asyrp_lit.data.avatars.traits import Traits, matches, sample_traits
from asyrp_lit.shapes import Images, Labels

Pixels = npt.NDArray[np.uint8]


class PortraitBatch(NamedTuple):
    """Images in [-1, 1], (B, 3, S, S); class index per label, (B, 6), -1 where undefined; index in the split."""

    x_0: Images
    labels: Labels
    index: torch.Tensor  # type: ignore[assignment]


def draw_pixels(index: int, split: str, size: int) -> Pixels:
    """Portrait ``index`` of a split as (S, S, 3) uint8."""
    return np.asarray(render_portrait(sample_traits(split, index), size))


def _fingerprint_drawing(split: str, size: int) -> str:
    sample = b"".join(draw_pixels(index, split, size).tobytes() for index in range(8))
    return hashlib.sha256(sample).hexdigest()[:12]


def render_split(split: str, num_portraits: int, size: int, cache: Path, workers: int | None = None) -> Pixels:
    """All portraits of a split as a read-only memory map (N, S, S, 3) uint8, drawn once and kept in ``cache``.

    The file's name covers what is drawn (pixels of the first portraits), so a change of the drawing makes a new one.

    Args:
        split: name of the split.
        num_portraits: the first N portraits.
        size: edge in pixels.
        cache: folder for the file, made when missing.
        workers: processes to draw with; ``None`` takes one per core.
    """
    path = cache / f"{split}-{size}px-{num_portraits}-{_fingerprint_drawing(split, size)}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            drawn = pool.map(partial(draw_pixels, split=split, size=size), range(num_portraits), chunksize=64)
            pixels = np.stack(list(tqdm(drawn, total=num_portraits, desc=f"draw {split} portraits", unit="img")))
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
            np.save(file, pixels)
        Path(file.name).replace(path)
    mapped: Pixels = np.load(path, mmap_mode="r")
    return mapped


def pixels_to_images(pixels: Pixels) -> Images:
    """(N, S, S, 3) uint8 to (N, 3, S, S) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def select_portraits(
    split: str, num_portraits: int, where: Mapping[str, str | Sequence[str]] | None = None
) -> list[int]:
    """Indices of the first ``num_portraits`` portraits of a split that meet a condition on their labels."""
    fitting = (index for index in count() if not where or matches(sample_traits(split, index), where))
    return list(islice(fitting, num_portraits))


def stack_labels(traits: Sequence[Traits]) -> Labels:
    """Class indices, (N, 6) int64, in the order of ``LABELS``."""
    return torch.tensor([list(t.class_indices().values()) for t in traits])


class Portraits(Dataset[PortraitBatch]):
    """Portraits ``0 .. num_portraits - 1`` of a split, served in whole batches of indices.

    Args:
        split, num_portraits, size, cache: as for ``render_split``.
    """

    def __init__(self, split: str, num_portraits: int, size: int, cache: Path) -> None:
        self.pixels = render_split(split, num_portraits, size, cache)
        self.traits = [sample_traits(split, index) for index in range(num_portraits)]
        self.labels = stack_labels(self.traits)

    def __len__(self) -> int:
        return len(self.traits)

    def __getitem__(self, index: int) -> PortraitBatch:
        return PortraitBatch(
            pixels_to_images(self.pixels[index : index + 1])[0], self.labels[index], torch.tensor(index)
        )
