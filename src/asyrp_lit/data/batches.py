"""Batches of a source in a given order, decoded ahead by worker processes."""

import os
import sys
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asyrp_lit.data.latents import to_uint8
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.data.source import ImageSource
from asyrp_lit.data.workers import end_on_sigterm, hand_over

Batch = dict[str, Tensor]


class _Batches(Dataset[Batch | Exception]):
    """A source by lists of indices. Images are 8-bit: a fourth of the memory that workers share.

    An error is handed over in place of the batch, for a DataLoader would make a traceback of its message.
    """

    def __init__(self, source: ImageSource | RandomLatents) -> None:
        self.source = source

    def __getitem__(self, indices: Sequence[int]) -> Batch | Exception:
        try:
            items = [self.source[index] for index in indices]
        except Exception as error:
            return hand_over(error)
        batch = {name: torch.stack([getattr(item, name) for item in items]) for name in items[0]._fields}
        return batch | {"x_0": to_uint8(batch["x_0"])} if "x_0" in batch else batch


def _keep(batch: Any) -> Any:
    return batch


def load_batches(
    source: ImageSource | RandomLatents, plan: Iterable[Sequence[int]], num_workers: int = 0
) -> Generator[Batch, None, None]:
    """The batches of a plan in its order, whatever the number of workers.

    Args:
        source: images, or random latents.
        plan: indices of each batch; consumed in this process, with workers some batches ahead.
        num_workers: processes that prepare the next batches meanwhile; 0 prepares each when it is asked for.
            At most one a core is started.

    Yields:
        ``x_0`` (B, 3, S, S) uint8 or ``x_T`` (B, 3, S, S) float32, and ``labels`` (B, L) int64.

    Raises:
        ValueError: ``num_workers`` is negative.
        Exception: what the source raises, when its batch has its turn.
    """
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    workers = min(num_workers, os.cpu_count() or 1)
    # Named, for joblib's processes have a default of their own that cannot start workers.
    context = "fork" if workers and sys.platform == "linux" else None
    loader = DataLoader(
        _Batches(source),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        collate_fn=_keep,
        multiprocessing_context=context,
        worker_init_fn=end_on_sigterm,
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch
