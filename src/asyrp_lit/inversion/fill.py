"""Latent stores filled: by inversion of images, or by sampling from random latents."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial

import torch
from tqdm import tqdm

from asyrp_lit.data.batches import Batch, load_batches
from asyrp_lit.data.latents import LatentStore, StoreKey, from_uint8, to_uint8
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.data.source import ImageSource
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.inversion.claims import Claims
from asyrp_lit.inversion.invert import invert_images, sample_pred_x0
from asyrp_lit.inversion.siblings import Siblings
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Table

#: What the latents of a store come from.
LatentSource = ImageSource | RandomLatents


def make_store_key(
    model: HSpaceUNet,
    source: LatentSource,
    num_steps: int,
    t_0: int,
    precision: str = "32-true",
    pred_x0_steps: Sequence[int] = (),
) -> StoreKey:
    """The key of the latents of a source under a network; arguments as in ``StoreKey``.

    Raises:
        ValueError: the source's images are not of the network's size, or a value is out of range.
    """
    if source.size != model.image_size:
        raise ValueError(f"{model.name} takes images of {model.image_size} px, got {source.size} px from {source.name}")
    return StoreKey(
        base_model=model.name,
        base_fingerprint=model.fingerprint(),
        source=source.name,
        source_fingerprint=source.fingerprint(),
        image_size=source.size,
        num_steps=num_steps,
        t_0=t_0,
        precision=precision,
        pred_x0_steps=tuple(pred_x0_steps),
    )


def fill_store(
    model: HSpaceUNet,
    source: LatentSource,
    store: LatentStore,
    batch_size: int,
    alphas_cumprod: Table | None = None,
    progress: bool = True,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    wait: bool = True,
    siblings: Siblings | None = None,
) -> list[int]:
    """Compute the shards of a store that are missing or corrupt, on the device of the network.

    Whole shards at a time, and in batches that begin with each shard: its bytes depend on store and ``batch_size``, not
    on where an earlier run was killed or who computes it. Whatever interrupts it, only whole shards are on disk.

    Any number of processes may fill one store at once, on machines that share its folder: each takes shards that nobody
    holds, and those of a process that died are free again.

    Args:
        model: the frozen network.
        source: the store's images.
        store: what to fill.
        batch_size: images per pass.
        alphas_cumprod: the schedule; ``None`` for DDPM's linear one.
        progress: whether to show a bar over images.
        num_workers: processes that decode the next batches meanwhile; the store's bytes do not depend on it.
        rank, world_size: of this process among those that were started together: where in the store it begins.
        wait: whether to wait for shards that others hold at the end, and compute them should their holders die.
        siblings: stores from which images are copied instead of inverted; the bytes then depend on what they hold.

    Returns:
        The shards that it computed.

    Raises:
        ValueError: ``batch_size`` is below 1, or source or network are not the store's.
        FloatingPointError: an image's latents are not finite; earlier shards are kept.
        OSError: the disk is full.
    """
    _check_fits(model, source, store, batch_size)
    device = next(model.parameters()).device
    schedule = (make_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod).to(device)
    missing = store.missing_shards(verify=store.verify)
    todo = sum(len(store.shard_indices(k)) for k in missing)
    invert = partial(_copy_or_invert, siblings) if siblings else _invert_batch
    compute, verb = (_sample_batch, "sample") if isinstance(source, RandomLatents) else (invert, "invert")
    name = f"{verb} {store.key.source}"
    bar = tqdm(total=len(store), initial=len(store) - todo, desc=name, unit="img", disable=not progress or not todo)
    computed: list[int] = []
    with bar, Claims(store, missing, rank, world_size, store.verify, bar.update) as claims:
        workers = num_workers if todo > batch_size else 0  # not for a single batch
        parts: list[Batch] = []
        with closing(_load_claimed(claims, source, batch_size, workers, wait)) as batches:
            for batch in batches:
                k, indices = claims.planned.popleft()
                parts.append(compute(model, batch, store, indices, schedule))
                bar.update(len(indices))
                if indices[-1] == store.shard_indices(k)[-1]:
                    store.write_shard(k, {name: torch.cat([part[name] for part in parts]) for name in store.specs})
                    claims.release(k)
                    computed.append(k)
                    parts = []
    return sorted(computed)


def _load_claimed(
    claims: Claims, source: LatentSource, batch_size: int, num_workers: int, wait: bool
) -> Generator[Batch, None, None]:
    """Batches of the shards that nobody holds, then of those that others held and left."""
    with closing(load_batches(source, claims.plan(batch_size), num_workers)) as batches:
        yield from batches
    if wait:  # nothing is read ahead now, for who waits must hold no shard
        yield from load_batches(source, claims.plan(batch_size, wait=True))


def _lower_precision(store: LatentStore, device: torch.device) -> AbstractContextManager[object]:
    """The precision of the network's passes that the store's key names."""
    return torch.autocast(device.type, torch.bfloat16) if store.key.precision == "bf16" else nullcontext()


def _invert_batch(
    model: HSpaceUNet, batch: Batch, store: LatentStore, indices: Sequence[int], alphas_cumprod: Table
) -> Batch:
    """One batch of 8-bit images as the store wants it."""
    device, key = alphas_cumprod.device, store.key
    x_0 = from_uint8(batch["x_0"]).to(device)
    with _lower_precision(store, device):
        result = invert_images(model, x_0, key.grid, alphas_cumprod, key.pred_x0_steps)
    found = {"x_T": result.x_T.cpu()}
    if result.pred_x0 is not None:
        found["pred_x0"] = result.pred_x0.half().cpu()
    _check_finite(found, store, indices)
    return batch | found


def _copy_or_invert(
    siblings: Siblings, model: HSpaceUNet, batch: Batch, store: LatentStore, indices: Sequence[int], schedule: Table
) -> Batch:
    """One batch as the store wants it, of which only the images that no sibling has pass through the network."""
    copies = [siblings.find(store.item_keys[i], x_0) for i, x_0 in zip(indices, batch["x_0"], strict=True)]
    rows = [row for row, copy in enumerate(copies) if copy is None]
    inverted: Batch = {}
    if rows:
        rest = {name: tensor[rows] for name, tensor in batch.items()}
        inverted = _invert_batch(model, rest, store, [indices[row] for row in rows], schedule)
    found: Batch = {}
    for name in store.specs.keys() - batch.keys():
        fresh = iter(inverted.get(name, ()))
        found[name] = torch.stack([next(fresh) if copy is None else copy[name] for copy in copies])
    return batch | found


def _sample_batch(
    model: HSpaceUNet, batch: Batch, store: LatentStore, indices: Sequence[int], alphas_cumprod: Table
) -> Batch:
    """One batch of random x_T as the store wants it: x_0 is P_t of the last step, so the P_t kept cost no pass more."""
    device, key = alphas_cumprod.device, store.key
    timesteps = tuple(dict.fromkeys((*key.pred_x0_steps, key.grid[0])))
    with _lower_precision(store, device):
        pred_x0 = sample_pred_x0(model, batch["x_T"].to(device), timesteps, key.grid, alphas_cumprod).cpu()
    found = {"x_0": pred_x0[:, -1]}
    if key.pred_x0_steps:
        found["pred_x0"] = pred_x0[:, : len(key.pred_x0_steps)].half()
    _check_finite(found, store, indices)
    return batch | found | {"x_0": to_uint8(found["x_0"])}


def _check_finite(found: Batch, store: LatentStore, indices: Sequence[int]) -> None:
    for name, tensor in found.items():
        finite = tensor.isfinite().flatten(1).all(dim=1).tolist()
        if bad := [store.item_keys[i] for i, fine in zip(indices, finite, strict=True) if not fine]:
            raise FloatingPointError(
                f"{name} is not finite for {', '.join(bad)}: the network's weights or these images are damaged, or the "
                "precision is too low (try trainer.precision=32-true)"
            )


def _check_fits(model: HSpaceUNet, source: LatentSource, store: LatentStore, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    there = (store.key.base_model, store.key.source, store.key.image_size, store.item_keys)
    given = (model.name, source.name, source.size, list(source.keys))
    for what, wanted, got in zip(("network", "source", "image size", "image keys"), there, given, strict=True):
        if wanted != got:
            shown = "others" if isinstance(got, list) else f"{wanted} in the store, {got} given"
            raise ValueError(f"{what} of the latent store {store.folder} differs ({shown}): make its key from these")
