"""What found directions do: a sheet of strips, and the oracle's table of changes."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.data.latents import from_uint8
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.seeds import derive_seeds
from asyrp_lit.hspace.attribute import AVATARS
from asyrp_lit.hspace.combine import Combined
from asyrp_lit.hspace.pullback import Bases, PullbackDelta
from asyrp_lit.metrics.changes import LabelChange, count_changes, summarise_changes
from asyrp_lit.metrics.oracle import AttributeOracle, load_oracle
from asyrp_lit.plots.save import save_figure
from asyrp_lit.plots.sheet import Block, draw_sheet
from asyrp_lit.shapes import Images
from asyrp_lit.stages.build import Setup
from asyrp_lit.stages.device import autocast_as, pick_device
from asyrp_lit.stages.discover_find import Found
from asyrp_lit.stages.guard import run_folder, write_json
from asyrp_lit.stages.judge import read_strengths
from asyrp_lit.stages.latents import build_store

log = logging.getLogger(__name__)

#: Strength as in tables -> label -> what became of it.
Changes = dict[str, dict[str, LabelChange]]


class Editor:
    """Edits of the val images that are looked at.

    Args:
        cfg: batch size, precision, device.
        setup: with these val images.
    """

    def __init__(self, cfg: DictConfig, setup: Setup) -> None:
        self.cfg, self.setup, self.device = cfg, setup, pick_device(cfg)
        store = build_store(cfg, setup.model, setup.sources["val"])
        items = [store[i] for i in range(len(store))]
        self.x_T = torch.stack([item["x_T"] for item in items]).to(self.device)
        self.seeds = derive_seeds(from_uint8(torch.stack([item["x_0"] for item in items])), cfg.seed)
        self.alphas_cumprod = make_alphas_cumprod().to(self.device)
        self.bases = Bases(setup.model, keep=len(self.x_T))  # of pullback directions, which see the same x_t

    def reconstruct(self) -> Images:
        """Plain inversion and back of all images, on the CPU."""
        parts = []
        for x_T in torch.split(self.x_T, self.cfg.inversion_batch_size):
            with autocast_as(self.cfg):
                parts.append(sample_images(self.setup.model, x_T, self.setup.grid, self.alphas_cumprod).float().cpu())
        return torch.cat(parts)

    def edit(self, found: Found, strengths: Sequence[float], indices: range) -> dict[float, Images]:
        """The images at every strength, on the CPU; all strengths share the passes before they part."""
        info = found.info
        if isinstance(found.direction, PullbackDelta):
            found.direction.attach(self.bases)
        combined = Combined([found.direction.to(self.device)], [(strength,) for strength in strengths])
        interval = Interval(info.t_edit, info.t_boost, info.t_start)
        per_batch = max(1, self.cfg.inversion_batch_size // len(strengths))
        parts = []
        for first in range(indices.start, indices.stop, per_batch):
            some = slice(first, min(first + per_batch, indices.stop))
            common = (self.setup.model, self.x_T[some], self.setup.grid, self.alphas_cumprod)
            with autocast_as(self.cfg):
                edits = sample_images(*common, combined, interval, self.seeds[some])
            parts.append(edits.float().cpu().view(len(strengths), -1, *edits.shape[1:]))
        return dict(zip(strengths, torch.cat(parts, dim=1), strict=True))


def show_found(cfg: DictConfig, setup: Setup, found: Sequence[Found]) -> None:
    """Edit, judge, draw, print and write ``sheet.png`` and ``discover.json``."""
    oracle = load_oracle().to(pick_device(cfg)) if cfg.model.domain == AVATARS else None
    editor = Editor(cfg, setup)
    reconstruction = editor.reconstruct()
    (most,) = read_strengths("method.judged", cfg.method.judged)
    judged = (-most, most)
    strengths = sorted({*read_strengths("method.strengths", cfg.method.strengths), *judged} - {0.0})
    shown = range(min(cfg.sheet_images, len(reconstruction)))
    others = range(len(shown), min(cfg.judged_images, len(reconstruction))) if oracle else range(0)
    blocks, report = [], {}
    for part in tqdm(found, desc="edit", unit="direction"):
        images = editor.edit(part, strengths, shown)
        more = editor.edit(part, judged, others) if others else {}
        changes: Changes = {}
        if oracle is not None:
            edits = {s: torch.cat([images[s], *([more[s]] if more else [])])[: cfg.judged_images] for s in judged}
            changes = judge_changes(oracle, reconstruction, edits)
        columns = {f"{s:g}": images[s] if s else reconstruction[: len(shown)] for s in sorted([*strengths, 0.0])}
        notes = "\n".join(f"{strength}: {summarise_changes(change)}" for strength, change in changes.items())
        blocks.append(Block(columns, part.title, notes or None))
        report[part.info.attribute] = describe_part(part, changes)
        log_changes(part, changes)
    write_json(run_folder() / "discover.json", report)
    save_figure(draw_sheet(blocks), run_folder() / "sheet.png")
    log.info("directions in %s, pictures: %s", run_folder(), run_folder() / "sheet.png")


def judge_changes(oracle: AttributeOracle, reconstruction: Images, edits: dict[float, Images]) -> Changes:
    """What the oracle sees change from the reconstructions to the edits of the first of them, strength by strength."""
    device = next(oracle.parameters()).device
    before = oracle.predict(reconstruction.clamp(-1, 1).to(device))
    after = {strength: oracle.predict(images.clamp(-1, 1).to(device)) for strength, images in edits.items()}
    return {f"{strength:+g}": count_changes(before[: len(labels)], labels) for strength, labels in after.items()}


def describe_part(part: Found, changes: Changes) -> dict[str, Any]:
    """One direction's entry of ``discover.json``; a rate over no image is null."""
    table = {
        strength: {
            label: {"rate": None if math.isnan(rate) else rate, "towards": towards}
            for label, (rate, towards) in change.items()
        }
        for strength, change in changes.items()
    }
    return {"title": part.title, "source": part.info.source, "metrics": part.info.metrics, "changes": table}


def log_changes(part: Found, changes: Changes) -> None:
    """One direction's lines of the table."""
    log.info("%s", part.title)
    for strength, change in changes.items():
        rates = "  ".join(f"{label} {change[label].rate:.2f}" for label in LABELS)
        log.info("  %5s  %s", strength, rates)
