"""Edits of pictures in one call: what ``edit.py`` does, on images in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from asyrp_lit.editing.mask import check_mask, read_mask
from asyrp_lit.editing.plan import EditPlan, LoadedDirection, edit_latents, make_plan
from asyrp_lit.editing.seeds import derive_seed
from asyrp_lit.editing.strengths import combine_strengths, spread_strengths, to_python
from asyrp_lit.hspace.direction import get_space
from asyrp_lit.library.images import ImageInput, Picture
from asyrp_lit.library.latents import BATCH_SIZE, Latents, check_count, check_steps, find_latents, get_device
from asyrp_lit.library.models import ModelDirection, load_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Edits, Mask

#: A direction that is loaded, a direction file, or the name of an embedded one.
DirectionInput = ModelDirection | str | Path
#: What ``edit`` and a pipeline's call pass on to ``plan_edit``.
OPTIONS = ("t_edit", "t_boost", "t_start", "normalise", "own_intervals", "process", "where", "mask")


def edit(
    model: HSpaceUNet,
    images: ImageInput | Latents,
    directions: DirectionInput | Sequence[DirectionInput],
    strength: object = 1.0,
    num_steps: SupportsIndex | None = None,
    seed: SupportsIndex | Sequence[SupportsIndex] = 0,
    batch_size: SupportsIndex = BATCH_SIZE,
    **options: Any,
) -> Edits:
    """Edits of images: the pictures that ``edit.py`` makes with the same settings.

    Args:
        model: from ``load_model``.
        images: latents from ``invert`` or ``draw_latents``, or images, which are inverted first.
        directions: one or several; several are added, over the root of their number.
        strength: of one direction a number or several; of several directions a number for all, or an entry each. A list
            of numbers for a direction means an edit for every combination.
        num_steps: of inversion and generation; ``None`` for the latents' own, or those of the training.
        seed: of the boosting noise, which each image draws for itself; one for all, or one an image.
        batch_size: images per pass, about.
        **options: ``where``, a picture or path, white where to edit and black where not; and those of ``make_plan``:
            ``t_edit``, ``t_boost``, ``t_start``, ``normalise``, ``own_intervals``, ``process``, ``mask``.

    Returns:
        (combinations * B, 3, S, S) float32, about [-1, 1], not clipped: all images at the first combination of
        strengths, then all at the second, the last direction's strengths changing fastest.

    Raises:
        FileNotFoundError, TypeError, ValueError: an argument is not possible; the message says what is.
        FloatingPointError: a strength is so large that the edit overflows.
    """
    check_options(options)
    batch_size, num_steps = check_count("batch_size", batch_size), check_steps(num_steps)
    device = get_device(model)
    loaded = [each.place_on(model, device) for each in load_directions(model, directions)]
    if num_steps is None and isinstance(images, Latents):
        num_steps = images.num_steps
    plan = plan_edit(model, loaded, num_steps, **options)
    combinations = combine_strengths(spread_strengths(strength, len(loaded)))
    latents = find_latents(model, images, num_steps, len(plan.grid), batch_size)
    seeds = spread_seeds(latents, seed)
    size = max(1, batch_size // len(combinations))
    blocks = []
    for first in range(0, len(latents), size):
        x_T = latents.x_T[first : first + size].to(device)
        edits = edit_latents(model, x_T, plan, combinations, seeds[first : first + size], batch_size)
        blocks.append(edits.reshape(len(combinations), len(x_T), *x_T.shape[1:]))
    return torch.cat(blocks, dim=1).flatten(0, 1)


def check_options(options: Iterable[str]) -> None:
    """See that options exist.

    Raises:
        TypeError: one does not.
    """
    if unknown := [name for name in options if name not in OPTIONS]:
        raise TypeError(f"there is no option {', '.join(unknown)}; options are {', '.join(OPTIONS)}")


def plan_edit(
    model: HSpaceUNet,
    loaded: Sequence[LoadedDirection],
    num_steps: int | None,
    where: Picture | None = None,
    mask: Mask | None = None,
    **options: Any,
) -> EditPlan:
    """The plan of an edit with a model, its mask read from a picture or checked; arguments as for ``edit``.

    Raises:
        FileNotFoundError, TypeError, ValueError: an argument is not possible.
    """
    plan = make_plan(loaded, num_steps, **options)
    space = get_space(loaded[0][0])
    if where is None:
        return plan if mask is None else replace(plan, mask=check_mask(mask, model, space))
    if mask is not None:
        raise ValueError("where and mask both say where to edit: give one of them")
    if not isinstance(where, Picture):
        raise TypeError(f"where must be a PIL image or a path, got {type(where).__name__}; mask= takes a tensor")
    return replace(plan, mask=read_mask(where, model, space))


def count_batches(num_images: int, combinations: Sequence[tuple[float, ...]], batch_size: int = BATCH_SIZE) -> int:
    """How many times ``edit`` walks the time grid; equal combinations are sampled once."""
    size = max(1, batch_size // len(combinations))
    return ceil(num_images / size) * ceil(len(set(combinations)) / max(2, batch_size // size))


def load_directions(model: HSpaceUNet, directions: DirectionInput | Sequence[DirectionInput]) -> list[ModelDirection]:
    """One direction or several, those loaded that are named.

    Raises:
        FileNotFoundError, ValueError: as ``load_direction``.
        TypeError: one is something else.
    """
    several = isinstance(directions, Iterable) and not isinstance(directions, DirectionInput)
    wanted: list[Any] = list(directions) if several else [directions]  # type: ignore[arg-type]
    for each in wanted:
        if not isinstance(each, DirectionInput):
            raise TypeError(f"directions must be loaded ones, files or names, got {type(each).__name__}")
    return [each if isinstance(each, ModelDirection) else load_direction(each, model) for each in wanted]


def spread_seeds(latents: Latents, seed: SupportsIndex | Sequence[SupportsIndex]) -> list[int]:
    """The seed of every image's own noise.

    Raises:
        ValueError: no whole numbers, or another number of them than images.
    """
    found = to_python(seed)
    listed = isinstance(found, Sequence) and not isinstance(found, str)
    given = [*map(to_python, found)] if listed else [found] * len(latents)
    for each in given:
        if type(each) is not int:
            raise ValueError(f"seed must be a whole number, or one an image, got {each!r}")
    if len(given) != len(latents):
        raise ValueError(f"seed must be one number, or one for each of the {len(latents)} images, got {len(given)}")
    return [derive_seed(content, each) for content, each in zip(latents.list_contents(), given, strict=True)]
