"""The directional CLIP loss and what it is made of (Asyrp, section 3.3; StyleGAN-NADA, Gal et al. 2022)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.shapes import Embedding, Embeddings, Images, PerSample

LossForm = Literal["log", "cosine", "squared"]


def compute_text_direction(clip: FrozenCLIP, src_text: str, trg_text: str, templates: Sequence[str]) -> Embedding:
    """dT, (1, D): target minus source text embedding, averaged over prompt templates, unit length.

    Args:
        clip: gives unit-length text embeddings.
        src_text, trg_text: what the image is and should become, without an article.
        templates: format strings with one ``{}``.

    Raises:
        ValueError: both texts embed alike, so there is no direction.
    """
    src = clip.encode_texts([template.format(src_text) for template in templates])
    trg = clip.encode_texts([template.format(trg_text) for template in templates])
    mean = (trg - src).mean(dim=0, keepdim=True)
    if float(mean.norm()) < 1e-6:
        raise ValueError(f"CLIP {clip.name} sees no difference between {src_text!r} and {trg_text!r}; change a text")
    return F.normalize(mean, dim=-1)


def compute_cos_text(clip: FrozenCLIP, src_text: str, trg_text: str) -> float:
    """Cosine of the two bare prompts, in [-1, 1]: how near the edit is (Asyrp, section 4.1)."""
    src, trg = clip.encode_texts([src_text, trg_text])
    return float(src @ trg)


def compute_image_direction(edit: Embeddings, source: Embeddings) -> Embeddings:
    """dI: unit-length difference of unit-length image embeddings, per sample."""
    return F.normalize(edit - source, dim=-1)


def directional_cosine(edit: Embeddings, source: Embeddings, text_direction: Embedding) -> PerSample:
    """cos(dI, dT) per sample, in [-1, 1]."""
    return (compute_image_direction(edit, source) * text_direction).sum(dim=-1)


def directional_loss(cosine: PerSample, form: LossForm = "log") -> PerSample:
    """The loss on cos(dI, dT).

    ``log`` is the released code's -log((1 + cos) / 2), ``cosine`` the paper's 1 - cos. Both push an edit that succeeds
    nearly as hard as one that does not begin to; ``squared``, (1 - cos)^2, is ours and lets go of what is right.
    """
    if form == "log":
        return -torch.log(((1 + cosine) / 2).clamp(min=1e-6))
    return (1 - cosine) ** 2 if form == "squared" else 1 - cosine


def reconstruction_loss(pred_x0_edit: Images, pred_x0_source: Images) -> PerSample:
    """Mean absolute difference of P_edit and P_source per sample, to be weighted by w_l1 * cos_text."""
    return (pred_x0_edit - pred_x0_source).abs().mean(dim=(1, 2, 3))
