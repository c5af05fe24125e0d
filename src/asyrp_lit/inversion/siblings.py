"""Latents that a new store need not compute, for another store beside it has them."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from asyrp_lit.data.batches import Batch
from asyrp_lit.data.latents import LatentStore, StoreKey

log = logging.getLogger(__name__)


class Siblings:
    """The stores beside one, of inverted images under the same network, time grid and precision.

    What they have was inverted in other batches, so it differs by rounding (about 1e-5) from what the store would
    compute. Stores and shards that are missing or cannot be read are passed by.

    Args:
        store: the one to fill; the manifests of its neighbours are read, their shards only in ``find``.

    Attributes:
        num_found: images that ``find`` has found.
        places: of the stores that they were found in.
    """

    def __init__(self, store: LatentStore) -> None:
        self.num_found = 0
        self.places: set[str] = set()
        self._key = store.key
        self._holders: dict[str, list[tuple[LatentStore, int]]] = {key: [] for key in store.item_keys}
        for manifest in sorted(store.folder.parent.glob(f"*-{store.key.num_steps}steps-*/manifest.json")):
            if manifest.parent != store.folder:
                self._add(manifest)

    def _add(self, manifest: Path) -> None:
        try:
            store = LatentStore.open(manifest.parent)
        except (OSError, ValueError) as error:
            log.debug("not looked through: %s", error)
            return
        if _has_latents(store.key, self._key):
            for index, key in enumerate(store.item_keys):
                if key in self._holders:
                    self._holders[key].append((store, index))

    def find(self, key: str, x_0: UInt8[Tensor, "3 size size"]) -> Batch | None:
        """``x_T`` and the wanted ``pred_x0`` of an image of that key and exactly these pixels; ``None`` if none has it.

        Args:
            key: of the image in the store to fill.
            x_0: (3, S, S) uint8.
        """
        for store, index in self._holders[key]:
            try:
                item = store[index]
            except FileNotFoundError:  # not computed yet
                continue
            except (OSError, ValueError) as error:
                log.warning("%s", error)
                continue
            if torch.equal(item["x_0"], x_0):
                self.num_found += 1
                self.places.add(store.place)
                kept = [store.key.pred_x0_steps.index(t) for t in self._key.pred_x0_steps]
                return {"x_T": item["x_T"]} | ({"pred_x0": item["pred_x0"][kept]} if kept else {})
        return None


def _has_latents(key: StoreKey, wanted: StoreKey) -> bool:
    """Whether an image has the same latents under two keys, and the first keeps every P_t of the second."""
    anywhere: dict[str, Any] = {"base_model": "", "source": "", "source_fingerprint": "", "pred_x0_steps": ()}
    same = replace(key, **anywhere) == replace(wanted, **anywhere)
    return same and not key.is_drawn and set(key.pred_x0_steps) >= set(wanted.pred_x0_steps)
