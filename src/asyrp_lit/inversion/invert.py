"""DDIM inversion, x_0 -> x_T (Song et al. 2021, section 4.3), and the stores that it fills."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from asyrp_lit.data.latents import LatentStore, StoreKey, from_uint8, to_uint8
from asyrp_lit.data.source import ImageItem, ImageSource
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim, step_inversion
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Coef, Images, Table

PredX0 = Float[Tensor, "batch steps channels height width"]


class InversionResult(NamedTuple):
    """What inversion finds: ``x_T``, and P_t of the unedited way back at the wanted timesteps, if any."""

    x_T: Images
    pred_x0: PredX0 | None


def _predict_eps(model: HSpaceUNet, x_t: Images, t: int) -> Images:
    """Eps in float32, also where the passes are in a lower precision."""
    eps: Images = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
    return eps.float()


def _gather_pair(alphas_cumprod: Table, t: int, t_to: int, x_t: Images) -> tuple[Coef, Coef]:
    """alpha-bar here and where the step goes."""
    steps = torch.tensor([[t], [t_to]], device=x_t.device).expand(2, len(x_t))
    return gather_alpha_bar(alphas_cumprod, steps[0]), gather_alpha_bar(alphas_cumprod, steps[1])


@torch.no_grad()
def invert_images(
    model: HSpaceUNet, x_0: Images, grid: Sequence[int], alphas_cumprod: Table, keep_pred_x0: Sequence[int] = ()
) -> InversionResult:
    """x_T by DDIM steps upwards, eps evaluated at the lower t of each (DDIM, section 4.3).

    Takes ``len(grid) - 1`` passes an image; with ``keep_pred_x0`` those of ``sample_pred_x0`` on top.

    Args:
        model: the frozen network.
        x_0: images in [-1, 1], taken to be at ``grid[0]``.
        grid: ascending timesteps, at least 2.
        alphas_cumprod: the schedule, on the device of the images.
        keep_pred_x0: timesteps at which P_t of the unedited sampling from x_T is wanted.
    """
    x_t = x_0
    for t, t_next in pairwise(grid):
        eps = _predict_eps(model, x_t, t)
        x_t = step_inversion(x_t, eps, *_gather_pair(alphas_cumprod, t, t_next, x_t))
    pred_x0 = sample_pred_x0(model, x_t, keep_pred_x0, grid, alphas_cumprod) if keep_pred_x0 else None
    return InversionResult(x_t, pred_x0)


@torch.no_grad()
def sample_pred_x0(
    model: HSpaceUNet, x_T: Images, timesteps: Sequence[int], grid: Sequence[int], alphas_cumprod: Table
) -> PredX0:
    """P_t of the unedited deterministic sampling from x_T, the other side of training's L1 term (Asyrp, section 3.3).

    Stops at the lowest wanted timestep, so it takes one pass an image for each grid point from there up: 40 for
    t = 0 on a grid of 40, as much again as the inversion.

    Args:
        model: the frozen network.
        x_T: images at ``grid[-1]``.
        timesteps: where P_t is wanted.
        grid: ascending timesteps.
        alphas_cumprod: the schedule, on the device of the images.

    Returns:
        P_t in the order of ``timesteps``, unclipped.

    Raises:
        ValueError: no timestep, or one off the grid.
    """
    if not timesteps or not set(timesteps) <= set(grid):
        raise ValueError(f"timesteps must be one or more of the time grid {tuple(grid)}, got {tuple(timesteps)}")
    found: dict[int, Images] = {}
    x_t = x_T
    descending = [t for t in reversed(grid) if t >= min(timesteps)]
    for t, t_prev in pairwise([*descending, -1]):
        eps = _predict_eps(model, x_t, t)
        alphas = _gather_pair(alphas_cumprod, t, t_prev, x_t)
        if t in timesteps:
            found[t] = compute_pred_x0(x_t, eps, alphas[0])
        x_t = step_ddim(x_t, eps, *alphas)
    return torch.stack([found[t] for t in timesteps], dim=1)


def make_store_key(
    model: HSpaceUNet,
    source: ImageSource,
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
    source: ImageSource,
    store: LatentStore,
    batch_size: int,
    alphas_cumprod: Table | None = None,
    shards: Collection[int] | None = None,
    progress: bool = True,
) -> list[int]:
    """Compute the shards of a store that are missing or corrupt, on the device of the network.

    Whole shards at a time, and in batches that begin with each shard: its bytes depend on store and ``batch_size``, not
    on where an earlier run was killed or who computes it. Whatever interrupts it, only whole shards are on disk.

    Args:
        model: the frozen network.
        source: the store's images.
        store: what to fill; takes the lock only if the caller does.
        batch_size: images per pass.
        alphas_cumprod: the schedule; ``None`` for DDPM's linear one.
        shards: the share of this process; ``None`` for all.
        progress: whether to show a bar over images.

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
    share = range(store.num_shards) if shards is None else sorted(shards)
    missing = store.missing_shards(share)
    total, todo = (sum(len(store.shard_indices(k)) for k in numbers) for numbers in (share, missing))
    description = f"invert {store.key.source}"
    with tqdm(total=total, initial=total - todo, desc=description, unit="img", disable=not progress or not todo) as bar:
        for k in missing:
            parts = []
            for indices in _split(store.shard_indices(k), batch_size):
                parts.append(_invert_items(model, [source[i] for i in indices], store, indices, schedule))
                bar.update(len(indices))
            store.write_shard(k, {name: torch.cat([part[name] for part in parts]) for name in store.specs})
    return missing


def _split(indices: range, batch_size: int) -> Iterator[range]:
    for first in range(0, len(indices), batch_size):
        yield indices[first : first + batch_size]


def _invert_items(
    model: HSpaceUNet, items: Sequence[ImageItem], store: LatentStore, indices: Sequence[int], alphas_cumprod: Table
) -> dict[str, Tensor]:
    """One batch as the store wants it; inverts the 8-bit images that are stored."""
    device, key = alphas_cumprod.device, store.key
    pixels = to_uint8(torch.stack([item.x_0 for item in items]))
    low = key.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
        result = invert_images(model, from_uint8(pixels).to(device), key.grid, alphas_cumprod, key.pred_x0_steps)
    tensors = {"x_0": pixels, "x_T": result.x_T.cpu(), "labels": torch.stack([item.labels for item in items])}
    if result.pred_x0 is not None:
        tensors["pred_x0"] = result.pred_x0.half().cpu()
    _check_finite(tensors, [store.item_keys[i] for i in indices])
    return tensors


def _check_finite(tensors: dict[str, Tensor], item_keys: Sequence[str]) -> None:
    for name in {"x_T", "pred_x0"} & tensors.keys():
        finite = tensors[name].isfinite().flatten(1).all(dim=1).tolist()
        if bad := [item_key for item_key, fine in zip(item_keys, finite, strict=True) if not fine]:
            raise FloatingPointError(
                f"{name} is not finite for {', '.join(bad)}: the network's weights or these images are damaged, or the "
                "precision is too low (try trainer.precision=32-true)"
            )


def _check_fits(model: HSpaceUNet, source: ImageSource, store: LatentStore, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    there = (store.key.base_model, store.key.source, store.key.image_size, store.item_keys)
    given = (model.name, source.name, source.size, list(source.keys))
    for what, wanted, got in zip(("network", "source", "image size", "image keys"), there, given, strict=True):
        if wanted != got:
            shown = "others" if isinstance(got, list) else f"{wanted} in the store, {got} given"
            raise ValueError(f"{what} of the latent store {store.folder} differs ({shown}): make its key from these")
