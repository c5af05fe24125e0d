"""Pretraining of the two networks that read portraits: the small CLIP and the attribute oracle."""

import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from asyrp_lit.data.avatars.captions import class_prompts, write_caption
from asyrp_lit.data.avatars.dataset import PortraitBatch
from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, sample_traits
from asyrp_lit.losses.clip import FrozenCLIP, build_avatars_clip, imagenet_templates, prepare_images
from asyrp_lit.metrics.oracle import AttributeOracle
from asyrp_lit.shapes import Images, Labels
from asyrp_lit.training.pretrain_diffusion import flip_at_random, ramped_lr


def degrade_images(x: Images, strength: float = 1.0) -> Images:
    """Flip, blur (down-up sampling by up to 4), fade towards the mean and add noise, as early P_t look.

    Args:
        x: images in [-1, 1].
        strength: 0 leaves everything but the flip out, 1 is the most.
    """
    x = flip_at_random(x)
    if torch.rand(()) < 0.5 * strength:
        size = int(x.shape[-1] / (1 + 3 * float(torch.rand(())) * strength))
        small = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
        x = F.interpolate(small, x.shape[-2:], mode="bicubic", align_corners=False)
    fade = 1 - 0.4 * strength * torch.rand(len(x), 1, 1, 1, device=x.device) ** 2
    sigma = 0.4 * strength * torch.rand(len(x), 1, 1, 1, device=x.device) ** 2
    return x * fade + sigma * torch.randn_like(x)


def match_captions(labels: Labels, claims: Int[Tensor, "texts labels"]) -> Bool[Tensor, "batch texts"]:
    """Which images show which texts: every label that the text mentions is what the image shows."""
    silent = claims[None] == UNDEFINED
    return (silent | (claims[None] == labels[:, None])).all(dim=-1)


def multi_positive_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where each row and column has several right answers, weighted alike."""
    rows = positives.float() / positives.sum(1, keepdim=True).clamp(min=1)
    columns = (positives.float() / positives.sum(0, keepdim=True).clamp(min=1)).T
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2


def mean_label_loss(logits: dict[str, Tensor], labels: Labels) -> Tensor:
    """Cross-entropy averaged over the labels; undefined ones (-1) are left out."""
    losses = [F.cross_entropy(logits[name].float(), labels[:, k], ignore_index=-1) for k, name in enumerate(LABELS)]
    return torch.stack(losses).mean()


class _PortraitReader(LightningModule):
    """What both have in common: AdamW with warm-up and decay, accuracy per label on val."""

    network: Any

    def __init__(self, lr: float, warmup: int, max_steps: int, decay_steps: int) -> None:
        super().__init__()
        self.save_hyperparameters("lr", "warmup", "max_steps", "decay_steps")

    def predict_labels(self, x: Images) -> Sequence[Tensor]:
        """Logits per label, in the order of ``LABELS``."""
        raise TypeError(f"{type(self).__name__} must say how it predicts labels")

    def validation_step(self, batch: PortraitBatch, batch_idx: int) -> None:
        """The same numbers on val every time."""
        for k, (name, logits) in enumerate(zip(LABELS, self.predict_labels(batch.x_0), strict=True)):
            known = batch.labels[:, k] != UNDEFINED
            accuracy = (logits.argmax(-1) == batch.labels[:, k])[known].float().mean()
            self.log(f"val/{name}", accuracy, prog_bar=True, batch_size=int(known.sum()))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and decay."""
        hparams = self.hparams
        optimizer = torch.optim.AdamW(self.parameters(), lr=hparams["lr"], weight_decay=0.01, foreach=True)

        def factor(step: int) -> float:
            return ramped_lr(step, hparams["warmup"], hparams["max_steps"], hparams["decay_steps"])

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class CLIPPretrainer(_PortraitReader):
    """Trains the embedded CLIP on portraits and sentences that are true of them.

    Args:
        template_probability: how often a caption is put into a random ImageNet template.
        texts_per_batch: captions written of a batch's first images; every image is compared with all of them.
        label_weight: weight of a cross-entropy on the labels through linear heads on the image embedding. The heads are
            thrown away; without them small features (a mouth of 8 x 4 px) are found late.
        lr, warmup, max_steps, decay_steps: optimiser settings, in steps.
    """

    def __init__(
        self,
        template_probability: float,
        texts_per_batch: int,
        label_weight: float,
        lr: float,
        warmup: int,
        max_steps: int,
        decay_steps: int,
    ) -> None:
        super().__init__(lr, warmup, max_steps, decay_steps)
        self.template_probability = template_probability
        self.texts_per_batch = texts_per_batch
        self.label_weight = label_weight
        self.network, self.tokenizer, self.expected = build_avatars_clip()
        width: int = self.network.text_projection.shape[1]
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(classes)) for name, classes in LABELS.items()})

    def _write_texts(self, index: Tensor) -> tuple[list[str], Tensor]:
        rng = random.Random(int(torch.randint(2**31, ())))
        captions = [write_caption(sample_traits("train", int(i)), rng) for i in index]
        templates = imagenet_templates()
        texts = [
            rng.choice(templates).format(c.text) if rng.random() < self.template_probability else c.text
            for c in captions
        ]
        return texts, torch.tensor([c.claims for c in captions], device=index.device)

    def training_step(self, batch: PortraitBatch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        texts, claims = self._write_texts(batch.index[: self.texts_per_batch])
        tokens = self.tokenizer(texts).to(self.device)
        x = prepare_images(degrade_images(batch.x_0), self.expected)
        features = self.network.encode_image(x)
        image_embeddings = F.normalize(features, dim=-1)
        text_embeddings = F.normalize(self.network.encode_text(tokens), dim=-1)
        logits = self.network.logit_scale.clamp(max=4.6).exp() * image_embeddings @ text_embeddings.T
        contrastive = multi_positive_loss(logits.float(), match_captions(batch.labels, claims))
        label_loss = mean_label_loss({name: head(features) for name, head in self.heads.items()}, batch.labels)
        self.log_dict({"train/contrastive": contrastive, "train/labels": label_loss}, prog_bar=True)
        loss = contrastive + self.label_weight * label_loss
        return loss

    def predict_labels(self, x: Images) -> Sequence[Tensor]:
        """Logits per label."""
        clip = FrozenCLIP(self.network, self.tokenizer, self.expected, "avatars")
        image_embeddings = clip.encode_images(x)
        logits = [image_embeddings @ clip.encode_texts(prompts).T for prompts in class_prompts().values()]
        self.network.requires_grad_(True)
        return logits


class OraclePretrainer(_PortraitReader):
    """Trains the attribute oracle by cross-entropy on every label that is defined.

    Args:
        degradation: strength of blur and noise, 0 to 1.
        lr, warmup, max_steps, decay_steps: optimiser settings, in steps.
    """

    def __init__(self, degradation: float, lr: float, warmup: int, max_steps: int, decay_steps: int) -> None:
        super().__init__(lr, warmup, max_steps, decay_steps)
        self.degradation = degradation
        self.network = AttributeOracle()

    def training_step(self, batch: PortraitBatch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = mean_label_loss(self.network(degrade_images(batch.x_0, self.degradation)), batch.labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def predict_labels(self, x: Images) -> Sequence[Tensor]:
        """Logits per label."""
        return list(self.network(x).values())
