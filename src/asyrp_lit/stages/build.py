"""From ``cfg`` to built parts: attribute, model, sources, stores, interval, judges."""

import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.latent_shards import write_atomically
from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.data.open_images import find_shared
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.hspace.attribute import Attribute, resolve_attribute
from asyrp_lit.hspace.direction import KINDS
from asyrp_lit.hspace.interval import LPIPSCurves, check_interval, choose_interval
from asyrp_lit.inversion.fill import LatentSource, fill_store, make_store_key
from asyrp_lit.inversion.profile import load_curves, measure_lpips_curves, save_curves
from asyrp_lit.losses.clip import FrozenCLIP, load_clip
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.curves import draw_lpips_curves
from asyrp_lit.plots.save import save_figure
from asyrp_lit.shapes import Images

log = logging.getLogger(__name__)

#: Images per shard of a latent store.
SHARD_SIZE = 32
#: What follows from images that both splits have.
SHARED = "the metrics say little about new images"
#: Whole numbers of the configuration and the least each may be.
COUNTS = {
    "model.image_size": 1,
    "method.num_steps": 2,
    "method.t_0": 1,
    "method.passes": 1,
    "method.batch_size": 1,
    "inversion_batch_size": 1,
    "callbacks.preview_images": 1,
    "latents.num_workers": 0,
}


def check_settings(cfg: DictConfig) -> None:
    """Find what would only fail, or mislead, after minutes of work.

    Raises:
        ValueError: a number or the kind of direction is not possible.
    """
    for name, least in COUNTS.items():
        value = OmegaConf.select(cfg, name)
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
    if cfg.method.kind not in KINDS:
        raise ValueError(f"method.kind must be one of {', '.join(KINDS)}, got {cfg.method.kind!r}")
    if type(cfg.method.init_scale) not in (int, float) or cfg.method.init_scale < 0:
        raise ValueError(f"method.init_scale must be a number, 0 or more, got {cfg.method.init_scale!r}")
    starts_at_0 = cfg.method.kind.startswith("f_t") and cfg.method.init_scale == 0
    if starts_at_0 and cfg.method.loss.clip_source == "pred_x0":
        raise ValueError(
            "method.loss.clip_source=pred_x0 needs method.init_scale above 0, such as 1: where nothing is edited yet, "
            "the CLIP direction from P_t to its edit is undefined"
        )
    lr = cfg.method.optimizer.lr
    if not isinstance(lr, int | float) or not 0 < lr < torch.finfo(torch.float32).max:
        raise ValueError(f"method.optimizer.lr must be a finite number above 0, got {lr!r}; 5e-4 suits Adam")


def pick_device(cfg: DictConfig) -> torch.device:
    """The device that the trainer will use, for the stages before it.

    Raises:
        ValueError: a GPU is asked for and there is none.
    """
    if cfg.trainer.accelerator != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("trainer.accelerator is gpu, but PyTorch sees no CUDA device here: take trainer=cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))  # each process of DDP has its own


def build_attribute(cfg: DictConfig) -> Attribute:
    """The attribute as it is meant on this model's domain."""
    values = OmegaConf.to_container(cfg.attr, resolve=True)
    assert isinstance(values, dict)
    return resolve_attribute({str(key): value for key, value in values.items()}, cfg.model.domain)


def build_source(cfg: DictConfig, split: str, attribute: Attribute) -> LatentSource:
    """The images of a split, on labelled data those to which the attribute applies; or random latents in their place.

    Raises:
        ValueError: the kind of latents does not exist.
    """
    if cfg.latents.kind == "random":
        return RandomLatents(split, cfg.latents[split], cfg.model.image_size, cfg.latents.seed)
    if cfg.latents.kind != "inverted":
        raise ValueError(f"latents.kind must be inverted or random, got {cfg.latents.kind!r}")
    node = cfg.data[split]
    if "where" in node and node.where is None and attribute.where is not None:
        return instantiate(node, where=attribute.where)  # type: ignore[no-any-return]
    return instantiate(node)  # type: ignore[no-any-return]


def build_sources(cfg: DictConfig, attribute: Attribute) -> dict[str, LatentSource]:
    """The images of train and val; warns where they have some in common."""
    sources = {split: build_source(cfg, split, attribute) for split in ("train", "val")}
    if shared := find_shared(sources["train"], sources["val"]):
        log.warning("%d of %d val images are train images too: %s", len(shared), len(sources["val"]), SHARED)
    return sources


def write_image_lists(sources: dict[str, LatentSource], run: Path) -> None:
    """Which images each split has, one key a line, into the run folder."""
    for split, source in sources.items():
        lines = "".join(f"{key}\n" for key in source.keys)
        write_atomically(run / f"images-{split}.txt", lines.encode(errors="surrogateescape"))


def build_store(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, pred_x0_steps: tuple[int, ...] = ()
) -> LatentStore:
    """The latents of a source, computed where they are missing."""
    method = cfg.method
    precision = "bf16" if str(cfg.trainer.precision).startswith("bf16") else "32-true"
    key = make_store_key(model, source, method.num_steps, method.t_0, precision, pred_x0_steps)
    num_labels = len(source[0].labels)
    store = LatentStore.create(cfg.paths.latents, key, list(source.keys), SHARD_SIZE, num_labels)
    with store.lock():
        if missing := store.missing_shards():
            mebibytes = LatentStore.disk_bytes(key, len(source), num_labels) / 2**20
            verb = "sampling" if isinstance(source, RandomLatents) else "inverting"
            log.info("%s into %s (%.1f MiB, %d shards to do)", verb, store.folder, mebibytes, len(missing))
            fill_store(model, source, store, cfg.inversion_batch_size, num_workers=cfg.latents.num_workers)
        else:
            log.info("reusing the latents in %s", store.folder)
    return store


def load_first_images(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...], num_images: int
) -> Images:
    """The first images of a source; of random latents those that the network made, from the train store."""
    if not isinstance(source, RandomLatents):
        return torch.stack([source[i].x_0 for i in range(num_images)])
    store = build_store(cfg, model, source, choose_cached_steps(cfg, grid))
    return from_uint8(torch.stack([store[i]["x_0"] for i in range(num_images)]))


def measure_curves(cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...]) -> LPIPSCurves:
    """LPIPS curves of the first images of a source, kept beside the stores."""
    num_images = min(max(1, cfg.interval.num_images), len(source))
    key = make_store_key(model, source, cfg.method.num_steps, cfg.method.t_0)
    path = Path(cfg.paths.latents) / f"lpips-{num_images}-{key.folder_name()}.json"
    if curves := load_curves(path):
        return curves
    device = pick_device(cfg)
    x_0 = load_first_images(cfg, model, source, grid, num_images).to(device)
    curves = measure_lpips_curves(model, x_0, grid, make_alphas_cumprod().to(device), load_lpips().to(device))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_curves(path, curves)
    return curves


def check_edits(interval: Interval, grid: tuple[int, ...]) -> Interval:
    """The interval, if any step of the grid lies in it.

    Raises:
        ValueError: none does.
    """
    if any(in_editing_phase(t, interval) for t in grid):
        return interval
    raise ValueError(
        f"no step edits: the interval is {interval.t_start} >= t >= t_edit = {interval.t_edit}, the timesteps are "
        f"{grid[0]} to {grid[-1]}; lower interval.t_edit (or interval.edit_threshold) or raise interval.t_start"
    )


def build_interval(
    cfg: DictConfig, model: HSpaceUNet, source: LatentSource, grid: tuple[int, ...], cos_text: float, run: Path
) -> Interval:
    """The interval, and for measured ones the picture of the curves in the run folder.

    Raises:
        ValueError: the kind does not exist, or nothing lies in the interval.
    """
    chosen = cfg.interval
    if chosen.kind == "fixed":
        return check_edits(check_interval(chosen.t_edit, chosen.t_boost, chosen.t_start), grid)
    if chosen.kind != "lpips":
        raise ValueError(f"interval.kind must be fixed or lpips, got {chosen.kind!r}")
    curves = measure_curves(cfg, model, source, grid)
    t_edit, t_boost, _ = choose_interval(curves, cos_text, chosen.edit_threshold, chosen.boost_threshold)
    interval = check_edits(check_interval(t_edit, t_boost, chosen.t_start), grid)
    figure = draw_lpips_curves(
        curves.timesteps,
        curves.pred_x0,
        curves.x_t,
        chosen.edit_threshold * cos_text,
        chosen.boost_threshold,
        *interval,
    )
    save_figure(figure, run / "interval.png")
    return interval


def choose_cached_steps(cfg: DictConfig, grid: tuple[int, ...], t_edit: int | None = None) -> tuple[int, ...]:
    """Timesteps at which the train store keeps P_t: those from ``cache_pred_x0_from``, or t_edit if that is lower."""
    lowest = cfg.method.cache_pred_x0_from
    if lowest is None:
        return ()
    return tuple(t for t in grid if t >= (lowest if t_edit is None else min(lowest, t_edit)))


def autocast_as(cfg: DictConfig) -> torch.autocast:
    """The trainer's precision for what runs outside it."""
    low = str(cfg.trainer.precision).startswith("bf16")
    return torch.autocast(pick_device(cfg).type, torch.bfloat16, enabled=low)


def build_clip(cfg: DictConfig) -> FrozenCLIP:
    """The frozen CLIP.

    Raises:
        ValueError: its weights cannot be downloaded, are damaged or of another architecture.
    """
    chosen = cfg.clip
    try:
        return load_clip(chosen.name, chosen.weights, chosen.cache)
    except (RuntimeError, UnpicklingError) as error:  # open_clip's and torch's
        raise ValueError(
            f"CLIP {chosen.name} cannot be loaded from {chosen.weights!r} ({str(error)[:300]}); without a network put "
            "its weight file on this machine and name it with clip.weights=/path/to/file"
        ) from error


class Setup(NamedTuple):
    """What inversion, training and evaluation share."""

    attribute: Attribute
    grid: tuple[int, ...]
    model: HSpaceUNet
    sources: dict[str, LatentSource]


def build_setup(cfg: DictConfig) -> Setup:
    """Attribute, time grid, frozen model and what their latents come from."""
    check_settings(cfg)
    seed_everything(cfg.seed, verbose=False)
    attribute = build_attribute(cfg)
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    model: HSpaceUNet = instantiate(cfg.model.build).to(pick_device(cfg))
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)
    return Setup(attribute, grid, model, build_sources(cfg, attribute))
