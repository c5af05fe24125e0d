"""The directions of an edit: found, checked against the base model, averaged where that is asked for."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.average import average_direction, average_timesteps, check_averaged, describe_average
from asyrp_lit.editing.plan import EditPlan, LoadedDirection, make_plan
from asyrp_lit.hspace.attribute import AVATARS
from asyrp_lit.hspace.direction import DirectionInfo, load_direction, save_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.hspace.free_delta import PerTimestepDelta
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Mask
from asyrp_lit.stages.device import get_precision, pick_device
from asyrp_lit.stages.edit_images import limit_source
from asyrp_lit.stages.latents import build_store

log = logging.getLogger(__name__)


class NamedDirection(NamedTuple):
    """A direction of an edit.

    Attributes:
        name: of its attribute, numbered where two have the same.
        path: its file.
        sha256: of the file.
        loaded: the direction and what the file says.
    """

    name: str
    path: Path
    sha256: str
    loaded: LoadedDirection

    @property
    def info(self) -> DirectionInfo:
        """What the file says."""
        return self.loaded[1]


def load_directions(cfg: DictConfig, model: HSpaceUNet) -> list[NamedDirection]:
    """The directions that ``direction`` names, on the stage's device.

    Raises:
        FileNotFoundError: one is neither a file nor embedded.
        ValueError: none is named, or one is for another base model.
    """
    chosen = OmegaConf.to_object(cfg)["direction"]  # type: ignore[call-overload, index]
    wanted = chosen if isinstance(chosen, Sequence) and not isinstance(chosen, str) else [chosen]
    if not wanted or not all(isinstance(name, str) and name for name in wanted):
        raise ValueError(f"direction must name a file or an embedded direction, or list several, got {chosen!r}")
    paths = [find_direction(name) for name in wanted]
    fingerprint, device = model.fingerprint(), pick_device(cfg)
    found = [load_direction(path, fingerprint, model.name) for path in paths]
    counts = Counter(info.attribute for _, info in found)
    names = [
        info.attribute if counts[info.attribute] == 1 else f"{info.attribute}-{number + 1}"
        for number, (_, info) in enumerate(found)
    ]
    return [
        NamedDirection(name, path, hashlib.sha256(path.read_bytes()).hexdigest(), (direction.to(device), info))
        for name, path, (direction, info) in zip(names, paths, found, strict=True)
    ]


def build_plan(cfg: DictConfig, directions: Sequence[NamedDirection], mask: Mask | None = None) -> EditPlan:
    """The plan of the edit that the configuration means."""
    return make_plan(
        [direction.loaded for direction in directions],
        num_steps=cfg.num_steps,
        normalise=cfg.combine == "normalised",
        own_intervals=cfg.intervals == "own",
        process=cfg.process,
        mask=mask,
        t_edit=cfg.t_edit,
        t_boost=cfg.t_boost,
        t_start=cfg.t_start,
        t_0=cfg.method.t_0,
    )


def average_directions(
    cfg: DictConfig, model: HSpaceUNet, directions: Sequence[NamedDirection]
) -> list[NamedDirection]:
    """The same directions with delta_h averaged over train images (``kind=mean``), and over timesteps (``global``).

    Each average is a direction file under ``paths.averages``, made once.

    Raises:
        ValueError: one is not in h-space, or the train images are not of the kind that is edited.
    """
    for direction in directions:
        check_averaged(direction.loaded[0])
    return [_average(cfg, model, direction) for direction in directions]


def _average(cfg: DictConfig, model: HSpaceUNet, direction: NamedDirection) -> NamedDirection:
    info = direction.info
    source = _open_train_images(cfg, info)
    count = min(cfg.average_images, len(source))
    about = f"{direction.sha256} {cfg.kind} {count} {source.name} {source.fingerprint()} {cfg.method.t_0}"
    precisions = (cfg.latents.precision or get_precision(cfg), get_precision(cfg))
    if set(precisions) != {"32-true"}:  # of averages in float32 nothing else was ever in the name
        about += f" {precisions}"
    digest = hashlib.sha256(about.encode()).hexdigest()[:12]
    path = Path(cfg.paths.averages) / f"{info.attribute}-{cfg.kind}-{digest}.safetensors"
    if not path.is_file():
        log.info("averaging delta_h of %s over %d images into %s", direction.name, count, path)
        mean = _average_over_images(cfg, model, direction, source, count)
        averaged = average_timesteps(mean) if cfg.kind == "global" else mean
        described = replace(describe_average(info, averaged), source=_name_origin(cfg, direction, count))
        save_direction(path, averaged, described)
    loaded, found = load_direction(path, model.fingerprint(), model.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return NamedDirection(direction.name, path, digest, (loaded.to(pick_device(cfg)), found))


def _open_train_images(cfg: DictConfig, info: DirectionInfo) -> LatentSource:
    """The train images to average over, on labelled data those that the direction is for.

    Raises:
        ValueError: they are cartoons, and the pictures of another model are edited.
    """
    if cfg.latents.kind == "random":
        return RandomLatents("train", cfg.average_images, cfg.model.image_size, cfg.latents.seed)
    source = limit_source(cfg.data.train, cfg.average_images, info.where)
    if isinstance(source, PortraitSource) and cfg.images is not None and cfg.model.domain != AVATARS:
        raise ValueError(
            f"kind={cfg.kind} averages over train images, and those of data=avatars are cartoons: name images such as "
            f"{cfg.model.name} makes, with data=folder data.train.folder=/path/to/images, or give latents=random"
        )
    return source


def _average_over_images(
    cfg: DictConfig, model: HSpaceUNet, direction: NamedDirection, source: LatentSource, count: int
) -> PerTimestepDelta:
    info, size, device = direction.info, cfg.inversion_batch_size, pick_device(cfg)
    steps = OmegaConf.merge(cfg, {"method": {"num_steps": info.num_steps}})
    assert isinstance(steps, DictConfig)
    store = build_store(steps, model, source)
    batches = (
        torch.stack([store[i]["x_T"] for i in range(first, min(first + size, count))]).to(device)
        for first in range(0, count, size)
    )
    grid = make_time_grid(info.num_steps, cfg.method.t_0)
    alphas_cumprod = make_alphas_cumprod().to(device)
    interval = Interval(info.t_edit, info.t_boost, info.t_start)
    return average_direction(model, batches, grid, alphas_cumprod, direction.loaded[0], interval)


def _name_origin(cfg: DictConfig, direction: NamedDirection, count: int) -> dict[str, str]:
    return {
        "format": f"delta_h_{cfg.kind} of a direction file",
        "file": direction.path.name,
        "sha256": direction.sha256,
        "images": str(count),
    }
