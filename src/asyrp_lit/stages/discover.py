"""Directions without a text, looked at and judged."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.subset import ImageSubset
from asyrp_lit.hspace.attribute import Attribute
from asyrp_lit.hspace.direction import TRAINED_KINDS, read_direction, save_direction
from asyrp_lit.inversion.fill import LatentSource
from asyrp_lit.stages.build import Setup, build_setup, check_counts
from asyrp_lit.stages.device import count_processes, pick_device
from asyrp_lit.stages.discover_find import Found, find_labels, find_pca, find_pullback, take_first
from asyrp_lit.stages.discover_sheet import show_found
from asyrp_lit.stages.guard import report_errors, run_folder
from asyrp_lit.stages.judge import describe, read_strengths
from asyrp_lit.stages.latents import write_image_lists
from asyrp_lit.stages.lock import alone_in_folder, in_first_process
from asyrp_lit.stages.train import run_training

log = logging.getLogger(__name__)

FINDERS: dict[str, Callable[[DictConfig, Setup], list[Found]]] = {
    "pca": find_pca,
    "labels": find_labels,
    "pullback": find_pullback,
}
#: Whole numbers of each kind of method and the least each may be.
COUNTS = {
    "pca": {"method.num_images": 2, "method.num_components": 1, "method.rank": 1},
    "labels": {"method.num_images": 4},
    "pullback": {"method.num_components": 1, "method.rank": 1, "method.iterations": 1},
}
#: Where no attribute is named: all images.
ANY = Attribute("any", "", "")


@report_errors
@in_first_process
@alone_in_folder
def discover(cfg: DictConfig) -> None:
    """Directions as files, ``sheet.png`` with what they do, ``discover.json`` with what the oracle makes of it."""
    check_discovery(cfg)
    named = OmegaConf.select(cfg, "attr") is not None
    if cfg.method.kind in TRAINED_KINDS:
        if not named:
            raise ValueError("a free delta_h is trained towards texts: add attr=beard, or any other of conf/attr")
        if (processes := count_processes(cfg)) > 1:  # the others have ended, and training would wait for them
            raise ValueError(
                f"discover.py is the work of one process, not of {processes}: start one, with a trainer for one, or "
                "train with python train.py method=delta_h, which shares it"
            )
        run = run_training(cfg).run
        setup = limit_val(cfg, build_setup(cfg))
        found = [load_trained(cfg, setup, run)]
    else:
        setup = limit_val(cfg, build_setup(cfg, None if named else ANY))
        write_image_lists(setup.sources, run_folder())
        found = FINDERS[cfg.method.kind](cfg, setup)
        for part in found:
            save_direction(run_folder() / f"{part.info.attribute}.safetensors", part.direction, part.info)
    show_found(cfg, setup, found)


def check_discovery(cfg: DictConfig) -> None:
    """Find what would only fail after minutes of work.

    Raises:
        ValueError: the method is not one of ``discover.py``, or a number is not possible.
    """
    method = cfg.method
    if "judged" not in method:
        raise ValueError(
            f"discover.py takes method=pca, labels, pullback or delta_h; one of kind {method.kind} is for train.py"
        )
    check_counts(cfg, {**COUNTS.get(method.kind, {}), "sheet_images": 1, "judged_images": 1})
    read_strengths("method.strengths", method.strengths)
    judged = read_strengths("method.judged", method.judged)
    if len(judged) > 1 or judged[0] <= 0:
        raise ValueError(f"method.judged must be one number above 0, got {method.judged}")
    if method.kind == "pullback" and method.num_components > method.rank:
        raise ValueError(
            f"method.num_components must be method.rank = {method.rank} or less, got {method.num_components}"
        )
    if method.kind == "labels" and not (isinstance(method.penalty, int | float) and 0 < method.penalty < math.inf):
        raise ValueError(f"method.penalty must be a finite number above 0, got {method.penalty!r}")


def limit_val(cfg: DictConfig, setup: Setup) -> Setup:
    """The setup with the val images that are looked at; of pullback the image that it is about comes first.

    Raises:
        ValueError: there is no such image.
    """
    val = setup.sources["val"]
    key = cfg.method.image if cfg.method.kind == "pullback" else None
    if key is not None:
        val = put_first(val, str(key))
    val = take_first(val, max(cfg.sheet_images, cfg.judged_images))
    return setup._replace(sources={**setup.sources, "val": val})


def put_first(source: LatentSource, key: str) -> LatentSource:
    """The same images with one of them in front.

    Raises:
        ValueError: there is no such image.
    """
    if key not in source.keys:
        raise ValueError(f"method.image must be the key of a val image, such as {source.keys[0]!r}, got {key!r}")
    first = source.keys.index(key)
    order = [first, *(index for index in range(len(source)) if index != first)]
    return ImageSubset(source, order)  # type: ignore[arg-type]


def load_trained(cfg: DictConfig, setup: Setup, run: Path) -> Found:
    """The direction that a training has left in its folder."""
    direction, info = read_direction(run / f"{setup.attribute.name}.safetensors")
    return Found(direction.to(pick_device(cfg)), info, describe(setup.attribute))
