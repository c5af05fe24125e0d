"""From ``cfg`` to what all stages share: settings checked, attribute, model, sources, CLIP."""

import logging
import math
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, ListConfig, OmegaConf

from asyrp_lit.data.random_latents import RandomLatents
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.hspace.attribute import Attribute, resolve_attribute
from asyrp_lit.hspace.direction import TRAINED_KINDS
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.losses.clip import FrozenCLIP, load_clip
from asyrp_lit.models.compiled import MODES, check_compiler
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.sanity import check_eps_error, check_norm_eps, compare_settings
from asyrp_lit.stages.capacity import AUTO, MOST, find_sampling_size
from asyrp_lit.stages.device import check_precision, pick_device
from asyrp_lit.stages.frozen import share_frozen
from asyrp_lit.stages.latents import build_sources, check_cache

log = logging.getLogger(__name__)

#: Images on which a base model of unknown make is tried.
CHECKED_IMAGES = 4
#: Whole numbers of the configuration and the least each may be.
COUNTS = {
    "model.image_size": 1,
    "method.num_steps": 2,
    "method.t_0": 1,
    "inversion_batch_size": 1,
    "seed": 0,
    "callbacks.preview_images": 1,
    "latents.num_workers": 0,
    "latents.read_workers": 0,
}
#: Those of methods that train.
TRAINED_COUNTS = {"method.passes": 1, "method.batch_size": 1, "method.chunk_size": 1}
MAY_BE_NULL = ("method.chunk_size",)
#: Kinds of method that ``discover.py`` finds without training.
FOUND_KINDS = ("pca", "labels", "pullback")


def check_counts(cfg: DictConfig, counts: Mapping[str, int]) -> None:
    """See that settings are whole numbers and not too small.

    Raises:
        ValueError: one is not.
    """
    for name, least in counts.items():
        value = OmegaConf.select(cfg, name)
        if name in MOST and (value == AUTO or (name in MAY_BE_NULL and value is None)):
            continue
        if type(value) is not int or value < least:
            words = (["null"] if name in MAY_BE_NULL else []) + (["auto"] if name in MOST else [])
            more = f", or {' or '.join(words)}" if words else ""
            raise ValueError(f"{name} must be a whole number, {least} or more{more}, got {value!r}")


def check_settings(cfg: DictConfig) -> None:
    """Find what would only fail, or mislead, after minutes of work.

    Raises:
        ValueError: a number or the kind of direction is not possible.
    """
    check_counts(cfg, COUNTS)
    check_precision(cfg)
    check_cache(cfg.latents)
    if cfg.compile not in MODES or type(cfg.compile) in (int, float):
        modes = ", ".join(str(mode).lower() for mode in MODES)
        raise ValueError(f"compile must be one of {modes}, got {cfg.compile!r}")
    if cfg.method.kind in FOUND_KINDS:
        return
    check_counts(cfg, TRAINED_COUNTS)
    if type(cfg.judged) not in (int, float) or cfg.judged == 0 or not math.isfinite(cfg.judged):
        raise ValueError(f"judged must be a finite strength other than 0, got {cfg.judged!r}")
    if cfg.method.kind not in TRAINED_KINDS:
        raise ValueError(f"method.kind must be one of {', '.join(TRAINED_KINDS)}, got {cfg.method.kind!r}")
    check_start(cfg.method)
    check_train_strengths(cfg.method.train_strengths)
    lr = cfg.method.optimizer.lr
    if not isinstance(lr, int | float) or not 0 < lr < torch.finfo(torch.float32).max:
        raise ValueError(f"method.optimizer.lr must be a finite number above 0, got {lr!r}; 5e-4 suits Adam")


def check_start(method: DictConfig) -> None:
    """See that training can begin as ``method.init_scale`` and ``method.init_from`` say.

    Raises:
        ValueError: it cannot.
    """
    if type(method.init_scale) not in (int, float) or method.init_scale < 0:
        raise ValueError(f"method.init_scale must be a number, 0 or more, got {method.init_scale!r}")
    starts_at_0 = method.kind.startswith("f_") and method.init_scale == 0 and method.init_from is None
    if starts_at_0 and method.loss.clip_source == "pred_x0":
        raise ValueError(
            "method.loss.clip_source=pred_x0 needs method.init_scale above 0, such as 1: where nothing is edited yet, "
            "the CLIP direction from P_t to its edit is undefined"
        )


def check_train_strengths(value: object) -> None:
    """See that ``method.train_strengths`` is a range.

    Raises:
        ValueError: it is not.
    """
    numbers = list(value) if isinstance(value, ListConfig) else []
    possible = len(numbers) == 2 and all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
    if not possible or numbers[0] > numbers[1] or numbers[1] <= 0:
        raise ValueError(
            "method.train_strengths must be two numbers, the lower first and the other above 0, as in [0.5,1.75] or "
            f"[-1.5,2]; got {value!r}"
        )


def build_attribute(cfg: DictConfig) -> Attribute:
    """The attribute as it is meant on this model's domain."""
    values = OmegaConf.to_container(cfg.attr, resolve=True)
    assert isinstance(values, dict)
    return resolve_attribute({str(key): value for key, value in values.items()}, cfg.model.domain)


def build_clip(cfg: DictConfig) -> FrozenCLIP:
    """The frozen CLIP, loaded once a process; on the CPU, or on the device where an earlier job left it.

    Raises:
        ValueError: its weights cannot be downloaded, are damaged or of another architecture.
    """
    chosen = cfg.clip
    try:
        arguments = (chosen.name, chosen.weights, chosen.cache)
        return share_frozen("clip", arguments, lambda: load_clip(*arguments))
    except (RuntimeError, UnpicklingError) as error:  # open_clip's and torch's
        raise ValueError(
            f"CLIP {chosen.name} cannot be loaded from {chosen.weights!r} ({str(error)[:300]}); without a network put "
            "its weight file on this machine and name it with clip.weights=/path/to/file"
        ) from error


def check_model(cfg: DictConfig, model: HSpaceUNet, source: LatentSource) -> None:
    """See that a base model of unknown make denoises the first images of a source, and say how well.

    Raises:
        ValueError: it does not, would notably better with another setting, or has an unusual norm eps.
    """
    chosen = cfg.model
    if chosen.max_eps_error is None:
        return
    check_norm_eps(model, converted=chosen.norm_eps is not None)
    if isinstance(source, RandomLatents):
        log.info("%s: not tried on images, there are none", model.name)
        return
    images = [source[i].x_0 for i in range(min(CHECKED_IMAGES, len(source)))]
    x_0 = torch.stack(images).to(pick_device(cfg))
    error = check_eps_error(model, x_0, chosen.max_eps_error)
    log.info("%s: eps error %.4f on %d lightly noised images (0: perfect, 1: blind)", model.name, error, len(x_0))
    compare_settings(model, x_0, chosen.num_head_channels)


class Setup(NamedTuple):
    """What inversion, training and evaluation share."""

    attribute: Attribute
    grid: tuple[int, ...]
    model: HSpaceUNet
    sources: dict[str, LatentSource]


def load_model(cfg: DictConfig) -> HSpaceUNet:
    """The frozen base model as its files have it, to be compiled where ``compile`` says so.

    Raises:
        ValueError: there is no working compiler for the stage's device.
    """
    if cfg.compile:
        check_compiler(pick_device(cfg), cfg.compile)
    model: HSpaceUNet = instantiate(cfg.model.build)
    if cfg.compile:
        model.compile_halves(cfg.compile)
    return model


def build_model(cfg: DictConfig) -> HSpaceUNet:
    """The frozen base model on the stage's device, loaded once a process."""
    settings = [OmegaConf.to_container(cfg.model.build, resolve=True), cfg.channels_last, cfg.compile]
    model: HSpaceUNet = share_frozen("unet", settings, lambda: load_model(cfg)).to(pick_device(cfg))
    if cfg.channels_last:
        model.to(memory_format=torch.channels_last)
    find_sampling_size(cfg, model)
    return model


def build_setup(cfg: DictConfig, attribute: Attribute | None = None) -> Setup:
    """Attribute (``None``: the one of ``cfg``), time grid, frozen model and what their latents come from."""
    check_settings(cfg)
    seed_everything(cfg.seed, verbose=False)
    attribute = build_attribute(cfg) if attribute is None else attribute
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    model = build_model(cfg)
    sources = build_sources(cfg, attribute)
    check_model(cfg, model, sources["train"])
    return Setup(attribute, grid, model, sources)
