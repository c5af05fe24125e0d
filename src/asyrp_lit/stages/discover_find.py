"""Directions found without training: principal components, classes of labels, pullback."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from asyrp_lit.data.encoded import printable
from asyrp_lit.data.latents import LatentStore
from asyrp_lit.data.subset import ImageSubset
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.trace import trace_h
from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction
from asyrp_lit.hspace.labels import classify, fit_boundary, scale_to_classes, subtract_means
from asyrp_lit.hspace.pca import Scatter, add_samples, find_components
from asyrp_lit.hspace.pullback import PullbackDelta, find_local_basis, make_encode
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.stages.build import Setup
from asyrp_lit.stages.device import autocast_as, pick_device
from asyrp_lit.stages.discover_labels import choose_classes
from asyrp_lit.stages.edit_results import folder_name
from asyrp_lit.stages.guard import run_folder
from asyrp_lit.stages.interval import build_interval
from asyrp_lit.stages.latents import build_store

log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A direction and what is to be said of it.

    Attributes:
        direction: for strength 1.
        info: its metadata.
        title: headline of its part of the sheet.
    """

    direction: nn.Module
    info: DirectionInfo
    title: str


def take_first(source: LatentSource, num_images: int | None) -> LatentSource:
    """The first images of a source, all where it has fewer; random latents are taken whole."""
    if num_images is None or len(source) <= num_images or not hasattr(source[0], "x_0"):
        return source
    return ImageSubset(source, range(num_images))  # type: ignore[arg-type]


def collect_h(cfg: DictConfig, setup: Setup, store: LatentStore, interval: Interval) -> Iterator[Tensor]:
    """h of a store's images in batches, (B, T, C, H, W) at the ascending timesteps of the interval."""
    device, size = pick_device(cfg), cfg.inversion_batch_size
    alphas_cumprod = make_alphas_cumprod().to(device)
    with tqdm(total=len(store), desc="collect h", unit="img") as bar, autocast_as(cfg):
        for first in range(0, len(store), size):
            indices = range(first, min(first + size, len(store)))
            x_T = torch.stack([store[i]["x_T"] for i in indices]).to(device)
            points = list(trace_h(setup.model, x_T, setup.grid, alphas_cumprod, interval))
            yield torch.stack([point.h for point in reversed(points)], dim=1)
            bar.update(len(indices))


def describe_found(
    cfg: DictConfig, setup: Setup, kind: str, arguments: dict[str, Any], interval: Interval, name: str
) -> DirectionInfo:
    """The metadata that every found direction has; ``source`` and ``metrics`` are filled in by its method."""
    model = setup.model
    return DirectionInfo(
        kind=kind,
        arguments=arguments,
        attribute=name,
        src_text="",
        trg_text="",
        base_model=model.name,
        base_fingerprint=model.fingerprint(),
        t_edit=interval.t_edit,
        t_boost=interval.t_boost,
        t_start=interval.t_start,
        num_steps=cfg.method.num_steps,
    )


def make_found(
    cfg: DictConfig, setup: Setup, delta_h: Tensor, interval: Interval, name: str, metrics: dict[str, float]
) -> tuple[nn.Module, DirectionInfo]:
    """A free delta_h (T, C, H, W) as a direction: of kind global for one timestep, else per_timestep."""
    model = setup.model
    timesteps = [t for t in setup.grid if in_editing_phase(t, interval)]
    kind = "per_timestep" if len(delta_h) == len(timesteps) else "global"
    arguments = direction_arguments(kind, model.h_channels, model.h_size, model.temb_channels, timesteps)
    direction = make_direction(kind, **arguments)
    direction.load_state_dict({**direction.state_dict(), "delta_h": delta_h})
    info = describe_found(cfg, setup, kind, arguments, interval, name)
    info.metrics.update(metrics)
    return direction.eval().requires_grad_(False), info


def find_pca(cfg: DictConfig, setup: Setup) -> list[Found]:
    """Principal components of h, of whole trajectories or shared over timesteps.

    Raises:
        ValueError: more components are asked for than the images can have.
    """
    method, model = cfg.method, setup.model
    source = take_first(setup.sources["train"], method.num_images)
    if method.num_components >= len(source):
        raise ValueError(
            f"{len(source)} images have at most {len(source) - 1} components, got method.num_components="
            f"{method.num_components}: lower it or raise method.num_images and data.train.num_images"
        )
    interval = build_interval(cfg, model, source, setup.grid, cfg.cos_text, run_folder())
    store = build_store(cfg, model, source)
    scatter: Scatter | None = None
    for h in collect_h(cfg, setup, store, interval):
        samples = h.flatten(2).transpose(0, 1) if method.shared else h.flatten(1)[None]
        scatter = add_samples(scatter, samples, max(method.rank, method.num_components))
    assert scatter is not None
    vectors, explained = find_components(scatter, method.num_components)
    shape = (-1, model.h_channels, model.h_size, model.h_size)
    found = []
    for number, (vector, share) in enumerate(zip(vectors, explained.tolist(), strict=True), 1):
        metrics = {"variance_explained": share}
        direction, info = make_found(cfg, setup, vector.view(shape), interval, f"pca_{number}", metrics)
        info.source.update(method="pca", component=str(number), images=f"{len(source)} of {source.name}")
        found.append(Found(direction, info, f"{info.attribute}: {100 * share:.1f} % of the variance"))
    return found


def find_labels(cfg: DictConfig, setup: Setup) -> list[Found]:
    """Class-mean difference and boundary of a linear SVM, at each timestep by itself."""
    method, model = cfg.method, setup.model
    classes = choose_classes(cfg, setup.sources)
    source = ImageSubset(setup.sources["train"], classes.indices)  # type: ignore[arg-type]
    interval = build_interval(cfg, model, source, setup.grid, cfg.cos_text, run_folder())
    h = torch.cat(list(collect_h(cfg, setup, build_store(cfg, model, source), interval)))
    positive = torch.tensor(classes.positive, device=h.device)
    means, normals, hits = [], [], []
    for features in h.flatten(2).unbind(dim=1):
        means.append(subtract_means(features, positive))
        normals.append(scale_to_classes(fit_boundary(features, positive, method.penalty).normal, means[-1]))
        half = fit_boundary(features[::2], positive[::2], method.penalty)
        hits.append((classify(features[1::2], half) == positive[1::2]).float().mean())
    accuracy = {"held_out_accuracy": float(torch.stack(hits).mean())}
    counts = f"{int(positive.sum())} {classes.names[0]}, {int((~positive).sum())} {classes.names[1]}"
    found = []
    for how, deltas, metrics in (("mean", means, {}), ("svm", normals, accuracy)):
        name = f"{folder_name(f'{method.label}_{classes.names[0]}')}_{how}"
        delta_h = torch.stack(deltas).view(-1, *h.shape[2:])
        direction, info = make_found(cfg, setup, delta_h, interval, name, metrics)
        info.source.update(method=f"labels, {how}", images=f"{counts} of {source.name}")
        note = "difference of the class means" if how == "mean" else "boundary of a linear SVM"
        found.append(Found(direction, info, f"{name}: {note}"))
    return found


def find_pullback(cfg: DictConfig, setup: Setup) -> list[Found]:
    """The leading right singular vectors of dh/dx_t at one val image and t.

    Raises:
        ValueError: t is off the grid's range, the rank is too low, or the image is not there.
    """
    method, model, device = cfg.method, setup.model, pick_device(cfg)
    t = choose_timestep(method.t, setup.grid)
    store = build_store(cfg, model, setup.sources["val"])
    x_T = store[0]["x_T"][None].to(device)
    alphas_cumprod = make_alphas_cumprod().to(device)
    x_t = next(trace_h(model, x_T, setup.grid, alphas_cumprod, Interval(t, 0, t))).x_t
    basis = find_local_basis(make_encode(model, t), x_t, method.rank, method.iterations)
    lower = [0, *(below + 1 for below in setup.grid if below < t)][-1]
    arguments: dict[str, Any] = {
        "h_channels": model.h_channels,
        "h_size": model.h_size,
        "channels": 3,
        "image_size": model.image_size,
    }
    arguments |= {name: method[name] for name in ("step", "transported", "rank", "iterations")}
    image = printable(store.item_keys[0])
    found = []
    for k in range(method.num_components):
        direction = PullbackDelta(**arguments)
        direction.load_state_dict({"u": basis.u[:, k], "v": basis.v[:, k]})
        interval, name = Interval(lower, 0, t), f"pullback_{k + 1}"
        info = describe_found(cfg, setup, "pullback", arguments, interval, name)
        info.metrics["singular_value"] = float(basis.s[0, k])
        info.source.update(method="pullback", component=str(k + 1), images=image, t=str(t))
        title = f"{name}: of {image} at t = {t}, singular value {float(basis.s[0, k]):.1f}"
        found.append(Found(direction.eval(), info, title))
    return found


def choose_timestep(t: object, grid: Sequence[int]) -> int:
    """The step of the grid that is nearest.

    Raises:
        ValueError: t is no number from 1 to the top of the grid.
    """
    if type(t) is not int or not 1 <= t <= grid[-1]:
        raise ValueError(f"method.t must be a whole number, 1 to {grid[-1]}, got {t!r}")
    return min(grid[1:], key=lambda step: abs(step - t))
