"""From ``cfg`` to latents: image sources, their lists, and the stores that are filled from them."""

import logging
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from asyrp_lit.data.encoded import EncodedImages
from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.data.open_images import find_shared
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.data.remote import open_store
from asyrp_lit.data.stored_latents import StoredLatents
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.files import write_atomically
from asyrp_lit.hspace.attribute import Attribute
from asyrp_lit.inversion.fill import LatentSource, fill_store, make_store_key
from asyrp_lit.inversion.siblings import Siblings
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images
from asyrp_lit.stages.device import find_rank, get_precision

log = logging.getLogger(__name__)

#: Images per shard of a latent store.
SHARD_SIZE = 32
#: What follows from images that both splits have.
SHARED = "the metrics say little about new images"


def check_cache(latents: DictConfig) -> None:
    """See that the local copies of remote stores have a place and a limit.

    Raises:
        ValueError: ``cache`` or ``cache_gib`` is none.
    """
    if latents.kind != "stored":
        return
    limit = latents.cache_gib
    if not isinstance(latents.cache, str) or not latents.cache:
        raise ValueError(f"latents.cache must be the path of a folder, got {latents.cache!r}")
    if type(limit) not in (int, float) or not 0 <= limit < math.inf:
        raise ValueError(
            "latents.cache_gib must be a finite number of GiB, 0 or more, as in 20 or 0.5 (without a unit), "
            f"got {limit!r}"
        )


def build_source(cfg: DictConfig, split: str, attribute: Attribute | None) -> LatentSource:
    """The images of a split, on labelled data those to which the attribute applies; or random latents in their place.

    ``None`` as the attribute takes all images.

    Raises:
        ValueError: the kind of latents does not exist.
    """
    if cfg.latents.kind == "random":
        return RandomLatents(split, cfg.latents[split], cfg.model.image_size, cfg.latents.seed)
    if cfg.latents.kind == "stored":
        return StoredLatents(open_store(cfg.latents[split], cfg.latents.cache, int(cfg.latents.cache_gib * 2**30)))
    if cfg.latents.kind != "inverted":
        raise ValueError(f"latents.kind must be inverted, random or stored, got {cfg.latents.kind!r}")
    node = cfg.data[split]
    applies = "where" in node and node.where is None and attribute is not None and attribute.where is not None
    source: LatentSource = instantiate(node, where=attribute.where) if applies and attribute else instantiate(node)
    if isinstance(source, EncodedImages):
        source.fingerprints = Path(cfg.paths.latents) / "fingerprints"
    return source


def build_sources(cfg: DictConfig, attribute: Attribute) -> dict[str, LatentSource]:
    """The images of train and val; warns where they have some in common."""
    sources = {split: build_source(cfg, split, attribute) for split in ("train", "val")}
    if shared := find_shared(sources["train"], sources["val"]):
        log.warning("%d of %d val images are train images too: %s", len(shared), len(sources["val"]), SHARED)
    return sources


def write_image_lists(sources: dict[str, LatentSource], run: Path) -> None:
    """Which images each split has, one key a line, into the run folder, by the first process."""
    if find_rank().number:
        return
    for split, source in sources.items():
        lines = "".join(f"{key}\n" for key in source.keys)
        write_atomically(run / f"images-{split}.txt", lines.encode(errors="surrogateescape"))


def build_store(
    cfg: DictConfig,
    model: HSpaceUNet,
    source: LatentSource,
    pred_x0_steps: tuple[int, ...] = (),
    wait: bool = True,
    reuse: bool = False,
) -> LatentStore:
    """The latents of a source, computed where they are missing.

    Processes that do so at once share the work; ``wait=False`` does not wait for the shards of others. ``reuse=True``
    copies images that other stores have: a saving for who adds to a folder, not for training, whose latents would
    then depend, by rounding, on what had been inverted before.
    """
    if isinstance(source, StoredLatents):
        check_store(cfg, source.store, model)
        log.info("reading the latents in %s", source.store.place)
        return source.store
    method = cfg.method
    precision = cfg.latents.precision or get_precision(cfg)
    key = make_store_key(model, source, method.num_steps, method.t_0, precision, pred_x0_steps)
    num_labels = len(source[0].labels)
    store = LatentStore.create(cfg.paths.latents, key, list(source.keys), SHARD_SIZE, num_labels)
    if missing := store.missing_shards(verify=store.verify):
        verb = "sampling" if isinstance(source, RandomLatents) else "inverting"
        mebibytes = store.num_bytes / 2**20
        log.info("%s into %s (%.1f MiB, %d shards to do)", verb, store.folder, mebibytes, len(missing))
        rank, siblings = find_rank(), Siblings(store) if reuse else None
        computed = fill_store(
            model,
            source,
            store,
            cfg.inversion_batch_size,
            progress=rank.number == 0,
            num_workers=cfg.latents.num_workers,
            rank=rank.number,
            world_size=rank.world_size,
            wait=wait,
            siblings=siblings,
        )
        if siblings and siblings.num_found:
            count, places = sum(len(store.shard_indices(k)) for k in computed), ", ".join(sorted(siblings.places))
            log.info("inverted %d of %d images, the others are in %s", count - siblings.num_found, count, places)
    else:
        log.info("reusing the latents in %s", store.folder)
    return store


def check_store(cfg: DictConfig, store: LatentStore, model: HSpaceUNet) -> None:
    """See that latents which somebody made are of this network and time grid.

    Raises:
        ValueError: they are not.
    """
    key = store.key
    if key.base_fingerprint != model.fingerprint():
        raise ValueError(
            f"the latents in {store.place} are of {key.base_model} ({key.base_fingerprint}), not of {model.name} "
            f"({model.fingerprint()}): take model={key.base_model}, or name the images instead"
        )
    if key.grid != make_time_grid(cfg.method.num_steps, cfg.method.t_0):
        raise ValueError(
            f"the latents in {store.place} took {key.num_steps} steps up to t = {key.t_0}, this run takes "
            f"{cfg.method.num_steps} down from {cfg.method.t_0}: add num_steps={key.num_steps} "
            "(method.num_steps in training), or name the images"
        )


def choose_cached_steps(cfg: DictConfig, grid: tuple[int, ...], t_edit: int | None = None) -> tuple[int, ...]:
    """Timesteps at which the train store keeps P_t: those from ``cache_pred_x0_from``, or t_edit if that is lower."""
    lowest = cfg.method.cache_pred_x0_from
    if lowest is None:
        return ()
    return tuple(t for t in grid if t >= (lowest if t_edit is None else min(lowest, t_edit)))


def open_images(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]
) -> Callable[[Sequence[int]], Images]:
    """A reader of a source's images by index; of random latents those that the network made, from the train store."""
    if not isinstance(source, RandomLatents):
        return lambda indices: torch.stack([source[i].x_0 for i in indices])
    open_store = lru_cache(1)(lambda: build_store(cfg, model, source, choose_cached_steps(cfg, grid)))
    return lambda indices: from_uint8(torch.stack([open_store()[i]["x_0"] for i in indices]))
