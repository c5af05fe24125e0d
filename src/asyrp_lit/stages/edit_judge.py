"""The judges of an edit that are at hand: LPIPS always, CLIP where its weights are here, the oracle on portraits."""

import logging
from collections.abc import Sequence

import torch
from omegaconf import DictConfig

from asyrp_lit.hspace.attribute import AVATARS
from asyrp_lit.losses.clip import AVATARS as AVATARS_CLIP
from asyrp_lit.losses.clip import FrozenCLIP, choose_templates, find_clip_weights
from asyrp_lit.losses.directional import compute_text_direction
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.editing import Target
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges
from asyrp_lit.metrics.per_image import judge_edit, judge_reconstruction
from asyrp_lit.shapes import Embedding, Images
from asyrp_lit.stages.build import build_clip
from asyrp_lit.stages.device import pick_device
from asyrp_lit.stages.edit_directions import NamedDirection

log = logging.getLogger(__name__)

#: Of one image: column -> metric -> value.
Verdicts = dict[str, dict[str, float]]


class EditJudge:
    """Judges batches of edits of some directions, image by image.

    Args:
        judges: frozen networks, on the stage's device.
        text_directions: name of a direction -> dT.
        targets: name of a direction -> label classes that make it a success.
    """

    def __init__(self, judges: Judges, text_directions: dict[str, Embedding], targets: dict[str, Target]) -> None:
        self.judges = judges
        self.text_directions = text_directions
        self.targets = targets

    def judge(self, x_0: Images, columns: dict[str, Images]) -> list[Verdicts]:
        """Metrics of every image; ``columns`` begin with the reconstruction."""
        (first, reconstruction), *edits = columns.items()
        found = {first: judge_reconstruction(self.judges, x_0, reconstruction)}
        for name, edit in edits:
            found[name] = judge_edit(self.judges, x_0, edit, self.text_directions, self.targets)
        return [
            {column: {name: float(values[i]) for name, values in metrics.items()} for column, metrics in found.items()}
            for i in range(len(x_0))
        ]


def build_edit_judge(cfg: DictConfig, directions: Sequence[NamedDirection]) -> EditJudge:
    """The judges of the configuration; says what it leaves out."""
    device = pick_device(cfg)
    clip = _load_clip(cfg)
    texts: dict[str, Embedding] = {}
    if clip is not None:
        clip.to(device)
        templates = choose_templates(cfg.clip.templates)
        for direction in directions:
            if direction.info.trg_text:
                pair = direction.info.src_text, direction.info.trg_text
                texts[direction.name] = compute_text_direction(clip, *pair, templates)
    portraits = cfg.model.domain == AVATARS
    targets: dict[str, Target] = {d.name: d.info.labels for d in directions if portraits and d.info.labels}
    judges = Judges(clip, load_lpips(), load_oracle() if targets else None)
    judges.to(torch.device(device))
    return EditJudge(judges, texts, targets)


def _load_clip(cfg: DictConfig) -> FrozenCLIP | None:
    """The CLIP, unless it would have to be downloaded for a number."""
    if cfg.clip.name != AVATARS_CLIP and find_clip_weights(cfg.clip.name, cfg.clip.weights, cfg.clip.cache) is None:
        log.info("no directional cosine: the weights of CLIP %s are not on this machine", cfg.clip.name)
        return None
    return build_clip(cfg)
