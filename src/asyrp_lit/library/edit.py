"""Edits of pictures in one call: what ``edit.py`` does, on images in memory."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch

from asyrp_lit.editing.plan import edit_latents, make_plan
from asyrp_lit.editing.seeds import derive_seed
from asyrp_lit.editing.strengths import combine_strengths, spread_strengths
from asyrp_lit.library.images import ImageInput
from asyrp_lit.library.latents import BATCH_SIZE, Latents, check_count, find_latents, get_device
from asyrp_lit.library.models import ModelDirection, load_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Edits

#: A direction that is loaded, a direction file, or the name of an embedded one.
DirectionInput = ModelDirection | str | Path


def edit(
    model: HSpaceUNet,
    images: ImageInput | Latents,
    directions: DirectionInput | Sequence[DirectionInput],
    strength: object = 1.0,
    num_steps: int | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = BATCH_SIZE,
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
        **options: of ``make_plan``: ``t_edit``, ``t_boost``, ``t_start``, ``normalise``, ``own_intervals``,
            ``process``, ``mask``.

    Returns:
        (combinations * B, 3, S, S) float32, about [-1, 1], not clipped: all images at the first combination of
        strengths, then all at the second, the last direction's strengths changing fastest.

    Raises:
        FileNotFoundError, TypeError, ValueError: an argument is not possible; the message says what is.
        FloatingPointError: a strength is so large that the edit overflows.
    """
    check_count("batch_size", batch_size)
    wanted = [directions] if isinstance(directions, DirectionInput) else list(directions)
    device = get_device(model)
    found = [each if isinstance(each, ModelDirection) else load_direction(each, model) for each in wanted]
    loaded = [each.place_on(model, device) for each in found]
    if num_steps is None and isinstance(images, Latents):
        num_steps = images.num_steps
    plan = make_plan(loaded, num_steps, **options)
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


def count_batches(num_images: int, num_combinations: int, batch_size: int = BATCH_SIZE) -> int:
    """How many times ``edit`` walks the time grid."""
    size = max(1, batch_size // num_combinations)
    return ceil(num_images / size) * ceil(num_combinations / max(2, batch_size // size))


def spread_seeds(latents: Latents, seed: int | Sequence[int]) -> list[int]:
    """The seed of every image's own noise.

    Raises:
        ValueError: another number of seeds than images.
    """
    given = [seed] * len(latents) if isinstance(seed, int) else list(seed)
    if len(given) != len(latents):
        raise ValueError(f"seed must be one number, or one for each of the {len(latents)} images, got {len(given)}")
    return [derive_seed(content, each) for content, each in zip(latents.list_contents(), given, strict=True)]
