"""Pictures and numbers of an edit."""

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from tqdm import tqdm

from asyrp_lit.editing.mask import read_mask
from asyrp_lit.editing.plan import Combination, EditPlan, edit_latents
from asyrp_lit.editing.sample import check_process
from asyrp_lit.editing.strengths import (
    check_distinct,
    combine_strengths,
    make_loop,
    name_combination,
    spread_strengths,
)
from asyrp_lit.editing.strips import RECONSTRUCTION
from asyrp_lit.hspace.direction import get_space
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.animate import FORMATS
from asyrp_lit.stages.build import build_model, check_settings
from asyrp_lit.stages.device import autocast_as, pick_device
from asyrp_lit.stages.edit_directions import average_directions, build_plan, load_directions
from asyrp_lit.stages.edit_images import RANDOM, EditBatch, open_latents, split_batches
from asyrp_lit.stages.edit_judge import EditJudge, build_edit_judge
from asyrp_lit.stages.edit_results import Results
from asyrp_lit.stages.guard import report_errors, run_folder
from asyrp_lit.stages.lock import alone_in_folder, in_first_process
from asyrp_lit.stages.settings import spell_override

log = logging.getLogger(__name__)

#: Strengths of one direction where nothing says; several are added at 1 each.
STRIP = [-1.0, 0.5, 1.0, 1.5]
#: Choices of the configuration.
CHOICES = {
    "combine": ("normalised", "sum"),
    "intervals": ("own", "joint"),
    "kind": ("per_image", "mean", "global"),
    "animate": (None, *FORMATS),
}
#: Whole numbers of the configuration and the least each may be.
COUNTS = {"average_images": 1, "animate_frames": 3, "zoom": 1, "show": 1}
#: Those that may be null.
OPTIONAL = {"n": 1, "num_steps": 2, "t_edit": 0, "t_start": 0, "t_boost": 0}


def check_edit_settings(cfg: DictConfig) -> None:
    """Find a wrong choice before any work.

    Raises:
        ValueError: a choice does not exist, or a number is not possible.
    """
    check_settings(cfg)
    check_process(cfg.process)
    for name, allowed in CHOICES.items():
        if cfg[name] not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(a or 'null' for a in allowed)}, got {cfg[name]!r}")
    for name, least in COUNTS.items():
        if type(cfg[name]) is not int or cfg[name] < least:
            raise ValueError(f"{name} must be a whole number, {least} or more, got {cfg[name]!r}")
    for name, least in OPTIONAL.items():
        if cfg[name] is not None and (type(cfg[name]) is not int or cfg[name] < least):
            raise ValueError(f"{name} must be null or a whole number, {least} or more, got {cfg[name]!r}")
    check_places(cfg)


def check_places(cfg: DictConfig) -> None:
    """See that images, mask and the folder of the results are named by paths.

    Raises:
        ValueError: they are not.
    """
    if cfg.out is not None and not isinstance(cfg.out, str):
        raise ValueError(f"out must be null or the path of a folder, got {cfg.out!r}; of a number ./ makes a path")
    if cfg.where is not None and not isinstance(cfg.where, str):
        raise ValueError(f"where must be null or the path of a picture, got {cfg.where!r}")
    named = cfg.images if isinstance(cfg.images, ListConfig) else [cfg.images]
    if cfg.images is not None and not (named and all(isinstance(name, str) for name in named)):
        raise ValueError(f"images must be null, random, a path, or a list of image files, got {cfg.images!r}")


def choose_folder(cfg: DictConfig) -> Path:
    """Where the results go.

    Raises:
        NotADirectoryError: something else is there.
        ValueError: the images would lie among them; in a folder below the images they are left out of those.
    """
    folder = Path(cfg.out).expanduser() if cfg.out else run_folder()
    own = (folder.resolve(), folder.resolve() / "images")
    if isinstance(cfg.images, str) and cfg.images != RANDOM and Path(cfg.images).expanduser().resolve() in own:
        raise ValueError(
            f"the results would lie among the images of {cfg.images}, and be edited themselves by a rerun: choose "
            f"another folder, such as {spell_override('out', Path(cfg.images) / 'edited')}"
        )
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"out={folder} is a file: name a folder, which need not exist")
    return folder


@report_errors
@in_first_process
@alone_in_folder
def edit(cfg: DictConfig) -> None:
    """Edit images with one direction or several."""
    check_edit_settings(cfg)
    folder = choose_folder(cfg)
    model = build_model(cfg)
    directions = load_directions(cfg, model)
    names = [direction.name for direction in directions]
    if cfg.strength is None:
        cfg = OmegaConf.merge(cfg, {"strength": STRIP if len(names) == 1 else 1.0})  # type: ignore[assignment]
    per_direction = spread_strengths(OmegaConf.to_object(cfg)["strength"], len(names))  # type: ignore[call-overload, index]
    for strengths in per_direction:
        check_distinct(strengths)
    combinations: list[Combination] = [None, *combine_strengths(per_direction)]
    columns = [RECONSTRUCTION if row is None else name_combination(names, row) for row in combinations]
    space = get_space(directions[0].loaded[0])
    mask = None if cfg.where is None else read_mask(cfg.where, model, space).to(pick_device(cfg))
    plan = build_plan(cfg, directions, mask)
    if cfg.kind != "per_image":
        directions = average_directions(cfg, model, directions)
        plan = build_plan(cfg, directions, mask)
    cfg = OmegaConf.merge(cfg, {"method": {"num_steps": len(plan.grid)}})  # type: ignore[assignment]
    latents = open_latents(cfg, model, [direction.info for direction in directions])
    judge = build_edit_judge(cfg, directions)
    results = Results(cfg, folder, directions, columns, latents)
    frames: list[Combination] = [*make_loop(per_direction, cfg.animate_frames)] if cfg.animate else []
    todo = results.find_todo()
    with (
        autocast_as(cfg),
        tqdm(total=latents.num_images, initial=latents.num_images - len(todo), desc="edit", unit="img") as bar,
    ):
        for batch in split_batches(latents, todo, max(1, cfg.inversion_batch_size // len(columns)), cfg.seed):
            edit_batch(cfg, model, plan, batch, dict(zip(columns, combinations, strict=True)), frames, judge, results)
            bar.update(len(batch.keys))
    square = len(names) == 2 and all(len(strengths) > 1 for strengths in per_direction)
    axes = [[f"{name} {s:g}" for s in row] for name, row in zip(names, per_direction, strict=True)]
    report(results.finish((axes[0], axes[1]) if square else None), results.folder)


def edit_batch(
    cfg: DictConfig,
    model: HSpaceUNet,
    plan: EditPlan,
    batch: EditBatch,
    columns: dict[str, Combination],
    frames: list[Combination],
    judge: EditJudge,
    results: Results,
) -> None:
    """Edit, judge and write the images of a batch."""
    device = pick_device(cfg)
    x_0, x_T = batch.x_0.to(device), batch.x_T.to(device)
    rows = [*columns.values(), *frames]
    edits = edit_latents(model, x_T, plan, rows, batch.seeds, cfg.inversion_batch_size).chunk(len(rows))
    named = dict(zip(columns, edits, strict=False))
    verdicts = judge.judge(x_0, named)
    loops = torch.stack(edits[len(columns) :]) if frames else None
    for i, key in enumerate(batch.keys):
        pictures = {"source": x_0[i : i + 1]} | {name: images[i : i + 1] for name, images in named.items()}
        results.keep(key, batch.fingerprints[i], pictures, verdicts[i], None if loops is None else loops[:, i])


def report(means: dict[str, dict[str, float]], folder: Path) -> None:
    """Print the mean metrics of every column, and where the pictures are."""
    width = max(map(len, means))
    for column, metrics in means.items():
        log.info("%s  %s", column.ljust(width), "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    log.info("pictures: %s", folder)
