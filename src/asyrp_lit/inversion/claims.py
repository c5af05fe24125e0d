"""Who computes which shard of a latent store, when several processes fill it at once."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from filelock import FileLock, Timeout

from asyrp_lit.data.latents import LatentStore

log = logging.getLogger(__name__)


class Claims:
    """Shards that this process takes, one after the other; those it holds are released on leaving.

    A claim is a file lock, which ends with its process, however that ends. The folder must be on a file system whose
    locks all machines see.

    Args:
        store: whose shards.
        missing: the shards that are not there.
        rank, world_size: of this process: processes begin at places spread over ``missing``, so that they seldom meet.
        verify: whether a shard's checksum must fit, or its length will do.
        on_found: called with the number of images of a shard that another process has computed meanwhile.
    """

    def __init__(
        self,
        store: LatentStore,
        missing: Sequence[int],
        rank: int,
        world_size: int,
        verify: bool,
        on_found: Callable[[int], Any],
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0 to world_size - 1, got {rank} of {world_size}")
        first = len(missing) * rank // world_size
        self.store = store
        self.missing = [*missing[first:], *missing[:first]]
        self.verify = verify
        self.on_found = on_found
        #: Shard and images of the batches that ``plan`` has given out and nobody has taken from here.
        self.planned: deque[tuple[int, range]] = deque()
        self._held: dict[int, FileLock] = {}
        self._taken: list[int] = []  # by others, in a plan that did not wait

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *exc: object) -> None:
        for number in list(self._held):
            self.release(number)

    def release(self, number: int) -> None:
        """Let go of a shard, computed or not."""
        self._held.pop(number).release()

    def plan(self, batch_size: int, wait: bool = False) -> Iterator[range]:
        """Images of the next batch: of a shard that is claimed as its first batch is asked for.

        Args:
            batch_size: of a shard; the last may be smaller.
            wait: for the shards that others held in a first plan, instead of passing by what they hold. Ask for a
                batch only when all before it are released: two processes that wait while they hold would never end.
        """
        for number in self._wait() if wait else self._pass():
            indices = self.store.shard_indices(number)
            for first in range(0, len(indices), batch_size):
                batch = indices[first : first + batch_size]
                self.planned.append((number, batch))
                yield batch

    def _pass(self) -> Iterator[int]:
        for number in self.missing:
            if (yield from self._try(number, blocking=False)):
                self._taken.append(number)

    def _wait(self) -> Iterator[int]:
        if self._taken:
            log.info("%s: waiting for shards %s, which other processes compute", self.store.folder, self._taken)
        for number in self._taken:
            if self._held:
                raise RuntimeError(f"waiting for shard {number} while holding {sorted(self._held)}")
            yield from self._try(number, blocking=True)

    def _try(self, number: int, blocking: bool) -> Generator[int, None, bool]:
        """Yield a shard that is ours now; the generator's value is whether another process holds it."""
        lock = self.store.lock_shard(number)
        try:
            lock.acquire(blocking=blocking)
        except Timeout:
            return True
        self._held[number] = lock
        if self.store.missing_shards([number], self.verify):
            yield number
        else:
            self.on_found(len(self.store.shard_indices(number)))
            self.release(number)
        return False
