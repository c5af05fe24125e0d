"""A latent store in batches: one order for all processes, resumable at any batch."""

from collections.abc import Iterator
from math import ceil, prod
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from asyrp_lit.data.latents import OPEN_SHARDS, LatentStore, from_uint8
from asyrp_lit.data.workers import hand_over
from asyrp_lit.shapes import Images, Labels


class LatentBatch(NamedTuple):
    """Some images of a store.

    Attributes:
        x_0: (B, 3, S, S) float32 in [-1, 1].
        x_T: (B, 3, S, S) float32, what inversion made of it.
        labels: (B, L) int64 class indices, -1 where undefined.
        index: (B,) int64 place in the store; -1 marks padding, which validation batches of several processes may have.
        pred_x0: (B, K, 3, S, S) float32 P_t at the key's ``pred_x0_steps``; ``None`` if the store keeps none.
    """

    x_0: Images
    x_T: Images
    labels: Labels
    index: Int[Tensor, " batch"]  # type: ignore[assignment]
    pred_x0: Float[Tensor, "batch steps channels height width"] | None

    @property
    def is_real(self) -> Bool[Tensor, " batch"]:
        """Which images count; the others are padding, to be left out of metrics."""
        return self.index >= 0


class LatentDataset(Dataset[LatentBatch]):
    """A store by lists of indices; a negative one, ``~index``, is that image as padding.

    Args:
        store: complete.
        num_images: take the first so many; ``None`` for all.

    Raises:
        ValueError: there is none to take.
    """

    def __init__(self, store: LatentStore, num_images: int | None = None) -> None:
        self.store = store
        self.num_images = len(store) if num_images is None else num_images
        if not 0 < self.num_images <= len(store):
            raise ValueError(f"num_images must be 1 to {len(store)}, the images in {store.folder}, got {num_images}")

    def __len__(self) -> int:
        return self.num_images

    @property
    def item_bytes(self) -> int:
        """Of one image as batches have it: what is shorter in the store is float32 there."""
        specs = self.store.specs.values()
        return sum(prod(spec["shape"]) * max(4, getattr(torch, spec["dtype"]).itemsize) for spec in specs)

    def __getitem__(self, indices: list[int]) -> LatentBatch:
        items = [self.store[max(index, ~index)] for index in indices]
        stacked = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return LatentBatch(
            x_0=from_uint8(stacked["x_0"]),
            x_T=stacked["x_T"],
            labels=stacked["labels"],
            index=torch.tensor([max(index, -1) for index in indices]),
            pred_x0=stacked["pred_x0"].float() if "pred_x0" in stacked else None,
        )


class JointBatchSampler(DistributedSampler[list[int]]):
    """Lists of indices: this rank's strided part of each joint batch of all ranks.

    Joint batches depend on (seed, epoch) and the joint batch size only, so that W processes with B / W images each see
    what one process with B sees. Every rank gets equally many batches of equal size. Where images do not fill the last
    joint batch, ``fill=True`` goes on with the first ones of the epoch's order (training: a mean over ranks is then the
    mean over the joint batch), ``fill=False`` leaves it short and pads it to a multiple of W with repeats marked as
    ``~index`` (validation: every image counts once).

    Large stores are shuffled in windows: the order of shards is random, and so is that of images within as many shards
    as are open at once, so that an epoch opens (or downloads) each of them once.

    It is a DistributedSampler for Lightning's sake, which leaves such a one in its place.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        fill: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset, world_size, rank, shuffle, seed)
        self.num_images = len(dataset)
        self.shard_size = dataset.store.shard_size
        self.joint_batch_size = batch_size * world_size
        self.fill = fill
        #: The next iteration leaves out this many batches.
        self.start = 0

    def __len__(self) -> int:
        return ceil(self.num_images / self.joint_batch_size)

    def draw_order(self) -> list[int]:
        """Order of the images in this epoch, the same in every process."""
        if not self.shuffle:
            return list(range(self.num_images))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        num_shards = ceil(self.num_images / self.shard_size)
        if num_shards <= OPEN_SHARDS:
            return torch.randperm(self.num_images, generator=generator).tolist()
        shards = torch.arange(num_shards * self.shard_size).view(num_shards, self.shard_size)
        order = []
        shards = shards[torch.randperm(num_shards, generator=generator)]
        for first in range(0, num_shards, OPEN_SHARDS):
            window = shards[first : first + OPEN_SHARDS]
            images = window[window < self.num_images]
            order.append(images[torch.randperm(len(images), generator=generator)])
        return torch.cat(order).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order = self.draw_order()
        for number in range(start, len(self)):
            yield self._cut_joint_batch(order, number)[self.rank :: self.num_replicas]

    def _cut_joint_batch(self, order: list[int], number: int) -> list[int]:
        first = number * self.joint_batch_size
        wanted = range(first, first + self.joint_batch_size)
        if self.fill:
            return [order[place % self.num_images] for place in wanted]
        joint = order[first : wanted.stop]
        padding = -len(joint) % self.num_replicas
        return joint + [~order[place % self.num_images] for place in range(padding)]


class _ErrorsToo(Dataset[LatentBatch | Exception]):
    """Hands an error over in place of the batch, for a DataLoader would make a traceback of its message."""

    def __init__(self, dataset: LatentDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, indices: list[int]) -> LatentBatch | Exception:
        try:
            return self.dataset[indices]
        except Exception as error:
            return hand_over(error)


def is_within_epoch(state: dict[str, int]) -> bool:
    """Whether a loader's ``state_dict`` is neither at the start nor at the end of an epoch."""
    return 0 < state["batches"] < ceil(state["images"] / state["joint_batch_size"])


class ResumableLoader(DataLoader[LatentBatch | Exception]):
    """A loader that Lightning's checkpoints save and put back at the batch where it was."""

    sampler: JointBatchSampler

    def __init__(self, dataset: LatentDataset, sampler: JointBatchSampler, **options: Any) -> None:
        super().__init__(_ErrorsToo(dataset), batch_size=None, sampler=sampler, **options)
        #: (epoch, batches served in it), and the same where a loaded state wants to go on.
        self._served = self._resume = (0, 0)

    def _plan(self) -> dict[str, int]:
        sampler = self.sampler
        return {"images": sampler.num_images, "joint_batch_size": sampler.joint_batch_size, "seed": sampler.seed}

    def state_dict(self) -> dict[str, int]:
        """Where it is: the same in every process."""
        epoch, batches = self._served
        return {"epoch": self.sampler.epoch, "batches": batches * (epoch == self.sampler.epoch), **self._plan()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from ``state_dict``.

        Raises:
            ValueError: it stopped within an epoch of other batches.
        """
        plan = self._plan()
        saved = {name: state[name] for name in plan}
        if saved != plan and is_within_epoch(state):
            raise ValueError(
                f"the checkpoint stopped within an epoch of {saved} and cannot go on with {plan}: resume with the same "
                "data, seed and batch size times processes, or from a checkpoint at the end of an epoch"
            )
        self.sampler.set_epoch(state["epoch"])
        self._served = self._resume = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[LatentBatch]:  # type: ignore[override]
        # A generator, so that workers start after Lightning has told the sampler its epoch.
        epoch = self.sampler.epoch
        start = self._resume[1] if self._resume[0] == epoch else 0
        self._resume = (epoch, 0)
        self.sampler.start = start
        for number, batch in enumerate(super().__iter__(), start + 1):
            if isinstance(batch, Exception):
                raise batch
            self._served = (epoch, number)
            yield batch
