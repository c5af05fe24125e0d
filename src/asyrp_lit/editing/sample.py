"""x_T -> images: the reverse process in its three phases (Asyrp, section 4)."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from asyrp_lit.diffusion.asyrp import Interval, in_boosting_phase, in_editing_phase, make_noise, step_asyrp
from asyrp_lit.diffusion.ddim import step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar
from asyrp_lit.hspace.combine import Combined, list_parts
from asyrp_lit.hspace.direction import Direction, get_space
from asyrp_lit.hspace.pullback import attach_bases
from asyrp_lit.models.hspace_unet import Bottleneck, HSpaceUNet
from asyrp_lit.shapes import Coef, Edits, Images, Table, Timesteps

#: Edit at every step, never boost.
EDIT_ALWAYS = Interval(0, 0)
#: asymmetric: the edited noise goes into P_t only (Asyrp); symmetric: into D_t too, where it nearly cancels (App. C).
Process = Literal["asymmetric", "symmetric"]
#: Of the boosting noise: one per sample, ``None`` for a sample that gets none.
Seeds = Sequence[int | None]


def check_process(process: str) -> Process:
    """The process of that name.

    Raises:
        ValueError: there is none.
    """
    for known in get_args(Process):
        if process == known:
            return known  # type: ignore[no-any-return]
    raise ValueError(f"process must be one of {', '.join(get_args(Process))}, got {process!r}")


def descend(grid: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Pairs (t, t_prev) from the top of an ascending grid down to t_prev = -1."""
    return zip(reversed(grid), (*reversed(grid[:-1]), -1), strict=True)


def full_timesteps(t: int, x: Images) -> Tensor:
    """t for every sample of a batch, int64."""
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def edit_eps(model: HSpaceUNet, bottleneck: Bottleneck, eps: Images, direction: Direction, steps: Timesteps) -> Images:
    """eps_edit: decoded from h + delta_h, or for a direction in eps-space eps + delta_eps without a decode."""
    if get_space(direction) == "eps":
        return eps + direction(eps, bottleneck.temb, steps)
    return model.decode(bottleneck, direction(bottleneck.h, bottleneck.temb, steps)).to(eps)


def guide_x(model: HSpaceUNet, x: Images, direction: Direction, steps: Timesteps) -> Images:
    """x_t + eps(x_t + v) - eps(x_t), v from a direction of space x (x-space guidance, Park et al. 2023, section 3).

    Their factor gamma is 1 here: the strength is in v.
    """
    attach_bases(list_parts(direction), model)
    bottleneck = model.encode(x, steps)
    change: Tensor = model(x + direction(x, bottleneck.temb, steps), steps) - model.decode(bottleneck)
    return x + change.to(x)


@torch.inference_mode()
def sample_images(
    model: HSpaceUNet,
    x_T: Images,
    grid: tuple[int, ...],
    alphas_cumprod: Table,
    direction: Direction | None = None,
    interval: Interval = EDIT_ALWAYS,
    seeds: Seeds | None = None,
    process: Process = "asymmetric",
) -> Edits:
    """Images from latents, edited where a direction is given.

    Costs one encode and two decodes (in one batch) a step of the interval with a direction, else one of each. Several
    ``copies`` of a ``Combined`` direction part only at the first edited step: until then they cost one image, and a
    copy without an edit never costs a second decode. A direction of space x costs two whole passes a step of the
    interval, and its transport.

    Args:
        model: the frozen network.
        x_T: latents at ``grid[-1]``, (B, C, S, S).
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table, on the latents' device.
        direction: ``None`` samples without an edit.
        interval: ``t_boost = 0`` never adds noise.
        seeds: one per sample, or one per sample of every copy, for the boosting noise, which depends on nothing else; a
            sample with ``None`` is not boosted. ``None`` counts from 0.
        process: where the edited noise goes.

    Returns:
        (copies * B, C, S, S) in blocks of B, about [-1, 1], not clipped.
    """
    copies = direction.copies if isinstance(direction, Combined) else 1
    seeds = list(range(len(x_T))) if seeds is None else seeds
    seeds = list(seeds) * (copies * len(x_T) // len(seeds))
    x = x_T
    for pair in descend(grid):
        x = sample_step(model, x, pair, alphas_cumprod, direction, interval, seeds, process)
    return x.repeat(len(seeds) // len(x), 1, 1, 1)


def sample_step(
    model: HSpaceUNet,
    x: Images,
    pair: tuple[int, int],
    alphas_cumprod: Table,
    direction: Direction | None,
    interval: Interval,
    seeds: Seeds,
    process: Process = "asymmetric",
) -> Edits:
    """One step of ``sample_images``.

    Args:
        model, alphas_cumprod, direction, interval, process: as there.
        x: at t, (B, C, S, S), or (copies * B, C, S, S) once the copies have parted.
        pair: t and t_prev; -1 means clean.
        seeds: one per sample of every copy.

    Returns:
        x at t_prev, of every copy where they part at this step.
    """
    t = pair[0]
    editing = direction is not None and in_editing_phase(t, interval)
    moves_x = direction is not None and editing and get_space(direction) == "x"
    if in_boosting_phase(t, interval) or moves_x:
        x = x.repeat(len(seeds) // len(x), 1, 1, 1)  # copies part here if no edit parted them before
    if direction is not None and moves_x:
        x = guide_x(model, x, direction, full_timesteps(t, x))
    steps = full_timesteps(t, x)
    bottleneck = model.encode(x, steps)
    if direction is not None and editing and not moves_x:
        spread = len(seeds) // len(x)
        eps, eps_edit = _decode_edits(model, bottleneck.repeat(spread), direction, steps.repeat(spread), spread)
        x = x.repeat(spread, 1, 1, 1)
    else:
        eps = eps_edit = model.decode(bottleneck)
    return _step(x, eps.to(x), eps_edit.to(x), pair, alphas_cumprod, interval, seeds, process)


def _decode_edits(
    model: HSpaceUNet, bottleneck: Bottleneck, direction: Direction, steps: Timesteps, spread: int
) -> tuple[Images, Images]:
    """Eps and eps_edit; eps once for what is the same ``spread`` times over, eps_edit for what is edited only."""
    once = len(bottleneck.h) // spread
    if get_space(direction) == "eps":
        eps = model.decode(bottleneck.select(slice(once))).repeat(spread, 1, 1, 1)
        return eps, edit_eps(model, bottleneck, eps, direction, steps)
    delta_h = direction(bottleneck.h, bottleneck.temb, steps)
    edited = direction.find_edited(len(delta_h)) if isinstance(direction, Combined) else torch.arange(len(delta_h))
    edited = edited.to(delta_h.device)
    unedited = torch.zeros_like(delta_h[:once])
    rows = torch.cat([torch.arange(once, device=edited.device), edited])
    decoded = model.decode(bottleneck.select(rows), torch.cat([unedited, delta_h[edited]]))
    eps = decoded[:once].repeat(spread, 1, 1, 1)
    return eps, eps.index_copy(0, edited, decoded[once:])


def _step(
    x: Edits,
    eps: Edits,
    eps_edit: Edits,
    pair: tuple[int, int],
    alphas_cumprod: Table,
    interval: Interval,
    seeds: Seeds,
    process: Process,
) -> Edits:
    t, t_prev = pair
    steps = full_timesteps(t, x)
    alphas = gather_alpha_bar(alphas_cumprod, steps), gather_alpha_bar(alphas_cumprod, torch.full_like(steps, t_prev))
    boosting = in_boosting_phase(t, interval) and t_prev >= 0
    eta, noise = _draw_boost(seeds, t, x) if boosting else (0.0, None)
    if process == "symmetric":
        return step_ddim(x, eps_edit, *alphas, eta, noise)
    return step_asyrp(x, eps, eps_edit, *alphas, eta, noise)


def _draw_boost(seeds: Seeds, t: int, x: Edits) -> tuple[Coef, Edits]:
    """Eta, 0 for a sample without a seed, and the noise of each sample's own seed."""
    eta = torch.tensor([float(seed is not None) for seed in seeds]).view(-1, 1, 1, 1)
    noise = make_noise([seed or 0 for seed in seeds], t, tuple(x.shape[1:]))
    return eta.to(x), noise.to(x)
