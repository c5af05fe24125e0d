"""What training minimises: the choices of the loss, and its value per sample."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from asyrp_lit.hspace.direction import Direction, get_space
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import LossForm, directional_cosine, directional_loss, reconstruction_loss
from asyrp_lit.losses.kept import KeptReadings
from asyrp_lit.shapes import BottleneckH, Embeddings, Images, PerSample, TimeEmbedding, Timesteps

ClipSource = Literal["x_0", "pred_x0"]


@dataclass(frozen=True)
class LossRecipe:
    """What is minimised, a weighted sum of the parts of ``Objective``; the L1 term is scaled by cos_text as well.

    Attributes:
        w_clip: weight of the directional CLIP loss.
        w_l1: weight of the reconstruction term, before cos_text.
        form: ``log`` as in the released code, ``cosine`` as in the paper.
        clip_source: the source image of the CLIP direction: the real ``x_0`` (released code) or P_t of the unedited
            trajectory, ``pred_x0`` (paper).
        w_keep: weight of ``KeptReadings`` between P_source and P_edit; not in the paper.
        w_delta_h: weight of ``relative_size`` of delta_h; not in the paper. It made edits weaker, not cleaner
            (docs/results.md).

    Raises:
        ValueError: a choice does not exist, or a weight is negative.
    """

    w_clip: float = 1.0
    w_l1: float = 3.0
    form: LossForm = "log"
    clip_source: ClipSource = "x_0"
    w_keep: float = 0.0
    w_delta_h: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("form", get_args(LossForm)), ("clip_source", get_args(ClipSource))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"method.loss.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("w_clip", "w_l1", "w_keep", "w_delta_h"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"method.loss.{name} must be 0 or more, got {getattr(self, name)!r}")


class Objective(NamedTuple):
    """Loss per sample and its parts."""

    total: PerSample
    clip: PerSample
    l1: PerSample
    keep: PerSample
    size: PerSample


def relative_size(delta: Images, moved: Images) -> PerSample:
    """Mean square of a delta over that of what it moves (h, or eps in eps-space), per sample; 0 or more."""
    return delta.square().flatten(1).mean(dim=1) / moved.square().flatten(1).mean(dim=1)


class MeasuredDirection:
    """A direction that remembers how large its last proposal was, with the graph.

    Attributes:
        size: ``relative_size`` of the last proposal.
    """

    size: PerSample

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.space = get_space(direction)

    def __call__(self, h: BottleneckH, temb: TimeEmbedding, t: Timesteps) -> BottleneckH:
        """What the direction proposes."""
        delta = self.direction(h, temb, t)
        self.size = relative_size(delta.float(), h.float())
        return delta


class EditLoss(nn.Module):
    """The loss of Asyrp and what the recipe adds to it.

    Args:
        clip: frozen CLIP.
        text_direction: dT, (1, D).
        cos_text: cosine of the bare prompts.
        recipe: the loss.
        kept: what CLIP shall read as before, weighted by the recipe's ``w_keep``; ``None`` for nothing.
        contrast: reads the pair (source text, target text), which makes the loss one of a slider, not in the paper: a
            strength above 0 moves along dT what reads as the source text, one below 0 moves against dT what reads
            as the target text, and of an image that is at its end already only the other terms remain, ``w_keep`` with
            the pair too. ``None``: all images move along dT.
    """

    text_direction: Tensor

    def __init__(
        self,
        clip: FrozenCLIP,
        text_direction: Embeddings,
        cos_text: float,
        recipe: LossRecipe,
        kept: KeptReadings | None = None,
        contrast: KeptReadings | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.cos_text = cos_text
        self.recipe = recipe
        self.kept = kept if recipe.w_keep else None
        self.contrast = contrast
        self.register_buffer("text_direction", text_direction)

    def forward(
        self,
        pred_x0_edit: Images,
        pred_x0_source: Images,
        source_embeddings: Embeddings,
        size: PerSample | None = None,
        strength: PerSample | None = None,
    ) -> Objective:
        """The loss per sample.

        Args:
            pred_x0_edit: P_t with the edit, carries the graph.
            pred_x0_source: P_t of the unedited trajectory.
            source_embeddings: CLIP embeddings of each sample's own real image.
            size: ``relative_size`` of delta_h; ``None`` where there is none.
            strength: of the edits; needed with ``contrast``, else not looked at.

        Raises:
            ValueError: ``contrast`` has no strength.
        """
        recipe, edit_embeddings = self.recipe, self.clip.encode_images(pred_x0_edit)
        pred_embeddings = source_embeddings
        reads = recipe.w_keep > 0 and (self.kept is not None or self.contrast is not None)
        if recipe.clip_source == "pred_x0" or reads:
            with torch.no_grad():
                pred_embeddings = self.clip.encode_images(pred_x0_source)
        source = pred_embeddings if recipe.clip_source == "pred_x0" else source_embeddings
        cosine = directional_cosine(edit_embeddings, source, self.text_direction)
        l1 = reconstruction_loss(pred_x0_edit, pred_x0_source)
        way = self._find_way(strength, source_embeddings)
        clip = directional_loss(cosine * way, recipe.form) * way.abs()
        keep = torch.zeros_like(l1)
        if self.kept is not None:
            keep = self.kept(edit_embeddings, pred_embeddings)
        if self.contrast is not None and reads:
            keep = keep + self.contrast(edit_embeddings, pred_embeddings) * (1 - way.abs())
        size = torch.zeros_like(l1) if size is None else size
        total = recipe.w_clip * clip + recipe.w_l1 * self.cos_text * l1 + recipe.w_keep * keep
        return Objective(total + recipe.w_delta_h * size, clip, l1, keep, size)

    @torch.no_grad()
    def read_as_target(self, source_embeddings: Embeddings) -> Bool[Tensor, " batch"]:
        """Whether an image reads as the target text already; for a loss with ``contrast``."""
        assert self.contrast is not None
        src, trg = self.contrast.read(source_embeddings).unbind(dim=-1)
        return trg > src

    def _find_way(self, strength: PerSample | None, source_embeddings: Embeddings) -> PerSample:
        """1 for images to move along dT, -1 for those to move against it, 0 for those that are where they shall be."""
        if self.contrast is None:
            return source_embeddings.new_ones(len(source_embeddings))
        if strength is None:
            raise ValueError("the loss of a slider needs the strengths that images were edited at")
        end = torch.where(self.read_as_target(source_embeddings), 1.0, -1.0)
        return torch.where(strength * end > 0, 0.0, -end)
