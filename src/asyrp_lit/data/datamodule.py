"""Latent stores as Lightning wants its data: reads from disk, never runs a network."""

from pathlib import Path

from lightning.pytorch import LightningDataModule

from asyrp_lit.data.latent_loader import JointBatchSampler, LatentBatch, LatentDataset, ResumableLoader
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.workers import end_on_sigterm, fit_read_ahead

__all__ = ["LatentBatch", "LatentsDataModule"]

#: Batches that a reading process is ahead: at the start of a window of shards all of them are downloaded.
READ_AHEAD = 8


class LatentsDataModule(LightningDataModule):
    """Batches from a store for training and one for validation; never runs a network.

    Args:
        train, val: stores, or their folders.
        batch_size: images per process and step.
        val_batch_size: the same for validation; ``None`` for ``batch_size``.
        shuffle: whether the training order changes with every epoch.
        seed: of the training order.
        num_workers: reading processes per loader.
        num_train_images: train on the first so many of the store; ``None`` for all.

    Raises:
        ValueError: a batch size is below 1.
    """

    def __init__(
        self,
        train: LatentStore | Path | str,
        val: LatentStore | Path | str,
        batch_size: int,
        val_batch_size: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        num_train_images: int | None = None,
    ) -> None:
        super().__init__()
        self.places = {"train": train, "val": val}
        self.batch_sizes = {"train": batch_size, "val": batch_size if val_batch_size is None else val_batch_size}
        if min(self.batch_sizes.values()) < 1:
            raise ValueError(f"batch_size and val_batch_size must be at least 1, got {self.batch_sizes}")
        self.shuffle = shuffle
        self.seed = seed
        self.num_workers = num_workers
        self.num_images = {"train": num_train_images, "val": None}
        self.stores: dict[str, LatentStore] = {}

    def prepare_data(self) -> None:
        """Check that both stores are complete on disk."""
        for store in map(_open, self.places.values()):
            if not store.is_complete():
                raise FileNotFoundError(
                    f"the latent store {store.place} is not complete: rerun the command that made it, it computes "
                    "what is missing"
                )

    def setup(self, stage: str) -> None:
        """Open both stores and check that they belong together."""
        self.stores = {name: _open(place) for name, place in self.places.items()}
        train, val = self.stores["train"].key, self.stores["val"].key
        for field in ("base_fingerprint", "image_size", "num_steps", "t_0"):
            if getattr(train, field) != getattr(val, field):
                raise ValueError(
                    f"the stores for training and validation must have one {field}, got {getattr(train, field)} in "
                    f"{self.stores['train'].place} and {getattr(val, field)} in {self.stores['val'].place}"
                )

    def train_dataloader(self) -> ResumableLoader:
        """Training batches, all of equal size."""
        return self._make_loader("train", self.shuffle, fill=True)

    def val_dataloader(self) -> ResumableLoader:
        """Validation batches in the order of the store, every image once; see ``LatentBatch.is_real``."""
        return self._make_loader("val", shuffle=False, fill=False)

    def _make_loader(self, name: str, shuffle: bool, fill: bool) -> ResumableLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        dataset = LatentDataset(self.stores[name], self.num_images[name])
        sampler = JointBatchSampler(dataset, self.batch_sizes[name], rank, world_size, shuffle, fill, self.seed)
        batch_bytes = self.batch_sizes[name] * dataset.item_bytes
        num_workers, ahead = fit_read_ahead(self.num_workers, READ_AHEAD, batch_bytes, world_size)
        return ResumableLoader(
            dataset,
            sampler,
            num_workers=num_workers,
            prefetch_factor=ahead if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=end_on_sigterm,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )


def _open(place: LatentStore | Path | str) -> LatentStore:
    return place if isinstance(place, LatentStore) else LatentStore.open(place)
