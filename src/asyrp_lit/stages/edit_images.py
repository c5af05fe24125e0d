"""The latents that an edit begins with."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from asyrp_lit.data.image_files import ImageFiles
from asyrp_lit.data.images import SUFFIXES
from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.data.open_images import open_images
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.data.remote import open_store
from asyrp_lit.data.stored_latents import StoredLatents
from asyrp_lit.data.urls import is_url
from asyrp_lit.editing.seeds import derive_seed
from asyrp_lit.hspace.direction import Classes, DirectionInfo
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images
from asyrp_lit.stages.build import check_model
from asyrp_lit.stages.latents import build_store

log = logging.getLogger(__name__)

RANDOM = "random"
#: How many where nothing says.
_DEFAULT_COUNT = 8
#: What the parts of a remote store may take on the local disk.
_CACHE_BYTES = 20 * 2**30


class Latents(NamedTuple):
    """Latents to edit.

    Attributes:
        store: where they are.
        num_images: how many of the store's images, its first.
        by_key: whether an image's noise follows from its key; else from its pixels, wherever the file lies.
    """

    store: LatentStore
    num_images: int
    by_key: bool

    def fingerprint(self, item: dict[str, Tensor]) -> str:
        """Of an item of the store, 16 hex digits: of its pixels, or where its key decides on the noise of its x_T."""
        content = item["x_T" if self.by_key else "x_0"]
        return hashlib.sha256(content.contiguous().numpy().tobytes()).hexdigest()[:16]


class EditBatch(NamedTuple):
    """Some images to edit.

    Attributes:
        keys: their names.
        fingerprints: of the images.
        x_0, x_T: (B, 3, S, S).
        seeds: of the boosting noise, one an image.
    """

    keys: list[str]
    fingerprints: list[str]
    x_0: Images
    x_T: Images
    seeds: list[int]


def open_latents(cfg: DictConfig, model: HSpaceUNet, infos: Sequence[DirectionInfo]) -> Latents:
    """The latents of the images that are to be edited, inverted where they are not in a store.

    Raises:
        FileNotFoundError, ValueError: there are no such images, or a store is for another network or other steps.
    """
    place = cfg.images if isinstance(cfg.images, str) and cfg.images != RANDOM else None
    if place and is_url(place) and Path(place).suffix.lower() in SUFFIXES:
        raise ValueError(f"images={place} is an image elsewhere: download it; of URLs only latent stores are read")
    if place and not is_url(place):
        place = os.path.expanduser(place)
    if place and (is_url(place) or (Path(place) / "manifest.json").is_file()):
        stored = StoredLatents(open_store(place, Path(cfg.paths.cache) / "latents", _CACHE_BYTES))
        store = build_store(cfg, model, stored)
        return Latents(store, _limit(cfg.n, len(store)), store.key.is_drawn)
    source = _open_source(cfg, model, infos)
    check_model(cfg, model, source)
    store = build_store(cfg, model, source, reuse=cfg.images is not None)
    return Latents(store, len(source), isinstance(source, RandomLatents))


def _open_source(cfg: DictConfig, model: HSpaceUNet, infos: Sequence[DirectionInfo]) -> LatentSource:
    if isinstance(cfg.images, ListConfig):
        return ImageFiles(cfg.images, model.image_size, limit=cfg.n, on_bad_image=cfg.on_bad_image)
    if cfg.images not in (None, RANDOM):
        return open_images(cfg.images, model.image_size, limit=cfg.n, on_bad_image=cfg.on_bad_image)
    count = cfg.n or _DEFAULT_COUNT
    if cfg.images == RANDOM:
        return RandomLatents("edit", count, model.image_size, cfg.seed)
    if cfg.latents.kind == RANDOM:
        return RandomLatents("val", count, model.image_size, cfg.latents.seed)
    return limit_source(cfg.data.val, count, infos[0].where if len(infos) == 1 else None)


def limit_source(node: DictConfig, count: int, where: Classes | None) -> LatentSource:
    """The first images of a split of ``data``, on labelled data those that meet a condition if it has none itself."""
    limit = {"num_images": count} if "num_images" in node else {"limit": count}
    condition = {"where": where} if "where" in node and node.where is None else {}
    source: LatentSource = instantiate(node, **limit, **condition)
    return source


def _limit(n: int | None, total: int) -> int:
    return total if n is None else min(n, total)


def split_batches(latents: Latents, todo: Sequence[int], batch_size: int, seed: int) -> Iterator[EditBatch]:
    """Batches of the images that are still to do, in the order of the store."""
    for first in range(0, len(todo), batch_size):
        indices = todo[first : first + batch_size]
        items = [latents.store[i] for i in indices]
        keys = [latents.store.item_keys[i] for i in indices]
        about = [key.encode(errors="surrogateescape") for key in keys]
        if not latents.by_key:
            about = [item["x_0"].numpy().tobytes() for item in items]
        x_0 = from_uint8(torch.stack([item["x_0"] for item in items]))
        x_T = torch.stack([item["x_T"] for item in items])
        seeds = [derive_seed(content, seed) for content in about]
        yield EditBatch(keys, [latents.fingerprint(item) for item in items], x_0, x_T, seeds)
