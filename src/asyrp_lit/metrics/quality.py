"""How good the embedded networks are, on held-out portraits: the figures of their model cards."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from asyrp_lit.data.avatars.captions import class_prompts
from asyrp_lit.data.avatars.dataset import draw_pixels, pixels_to_images, stack_labels
from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, sample_traits
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.metrics.editing import image_psnr
from asyrp_lit.metrics.oracle import AttributeOracle
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Labels

#: Split that no network was trained or tuned on.
TEST = "test"
_BATCH = 64


def draw_portraits(split: str, num_images: int, size: int = 64) -> tuple[Images, Labels]:
    """The first portraits of a split and their labels."""
    images = torch.cat([pixels_to_images(draw_pixels(index, split, size)[None]) for index in range(num_images)])
    return images, stack_labels([sample_traits(split, index) for index in range(num_images)])


def score_labels(predicted: Labels, labels: Labels) -> dict[str, float]:
    """Accuracy per label over the images where it is defined."""
    known = labels != UNDEFINED
    right = ((predicted == labels) & known).sum(dim=0) / known.sum(dim=0)
    return {name: round(float(value), 4) for name, value in zip(LABELS, right, strict=True)}


@torch.no_grad()
def judge_clip(clip: FrozenCLIP, num_images: int = 1024) -> dict[str, float]:
    """Zero-shot accuracy per label on test portraits, one prompt per class."""
    images, labels = draw_portraits(TEST, num_images)
    embeddings = torch.cat([clip.encode_images(batch) for batch in torch.split(images, _BATCH)])
    predicted = [(embeddings @ clip.encode_texts(prompts).T).argmax(-1) for prompts in class_prompts().values()]
    return score_labels(torch.stack(predicted, dim=1), labels)


@torch.no_grad()
def judge_oracle(oracle: AttributeOracle, num_images: int = 1024) -> dict[str, float]:
    """Accuracy per label on test portraits."""
    images, labels = draw_portraits(TEST, num_images)
    logits = [oracle(batch) for batch in torch.split(images, _BATCH)]
    predicted = [torch.cat([batch[name] for batch in logits]).argmax(-1) for name in LABELS]
    return score_labels(torch.stack(predicted, dim=1), labels)


def reconstruct(model: HSpaceUNet, images: Images, num_steps: int = 40) -> Images:
    """DDIM inversion and back, without an edit."""
    grid, alphas_cumprod = make_time_grid(num_steps), make_alphas_cumprod()
    batches = [
        sample_images(model, invert_images(model, batch, grid, alphas_cumprod).x_T, grid, alphas_cumprod)
        for batch in torch.split(images, _BATCH)
    ]
    return torch.cat(batches)


def draw_samples(model: HSpaceUNet, num_images: int, num_steps: int = 50, seed: int = 0) -> Images:
    """Unedited samples from seeded latents, DDIM with eta 0, clamped to [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn(num_images, 3, model.image_size, model.image_size, generator=generator)
    grid, alphas_cumprod = make_time_grid(num_steps), make_alphas_cumprod()
    return torch.cat(
        [sample_images(model, batch, grid, alphas_cumprod).clamp(-1, 1) for batch in torch.split(x_T, _BATCH)]
    )


class _EmbeddingFeatures(nn.Module):
    def __init__(self, clip: FrozenCLIP) -> None:
        super().__init__()
        self.clip = clip
        self.num_features = clip.encode_texts(["face"]).shape[-1]

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.clip.encode_images(images.float() / 127.5 - 1)
        return features


def compute_kid(clip: FrozenCLIP, real: Images, fake: Images, subset_size: int = 100) -> float:
    """KID in the embedded CLIP's image space, times 1000 (Binkowski et al. 2018): 0 for equal distributions.

    Not comparable with KID on Inception features; a reference is the KID of two sets of real portraits.
    """
    torch.manual_seed(0)
    kid = KernelInceptionDistance(feature=_EmbeddingFeatures(clip), subset_size=min(subset_size, len(real), len(fake)))
    for images, is_real in ((real, True), (fake, False)):
        for batch in _to_uint8(images):
            kid.update(batch, real=is_real)
    return round(1000 * float(kid.compute()[0]), 3)


def _to_uint8(images: Images) -> Iterator[Tensor]:
    return (((batch + 1) * 127.5).round().clamp(0, 255).to(torch.uint8) for batch in torch.split(images, _BATCH))


def judge_unet(
    model: HSpaceUNet, clip: FrozenCLIP, samples: Images, num_reconstructions: int = 32, num_real: int = 512
) -> dict[str, float]:
    """PSNR of 40-step reconstructions of test portraits, and KID of samples against test portraits.

    Args:
        model: the network.
        clip: its image space is KID's.
        samples: from ``draw_samples``.
        num_reconstructions: test portraits to invert and sample back.
        num_real: test portraits in KID.
    """
    real, _ = draw_portraits(TEST, num_real)
    others, _ = draw_portraits("val", len(samples))
    psnr = image_psnr(reconstruct(model, real[:num_reconstructions]), real[:num_reconstructions])
    return {
        "reconstruction_psnr_db": round(float(psnr.mean()), 2),
        "reconstruction_psnr_db_lowest": round(float(psnr.min()), 2),
        "reconstructions": num_reconstructions,
        "kid_x1000": compute_kid(clip, real, samples, subset_size=50),
        "kid_x1000_of_as_many_real_portraits": compute_kid(clip, real, others, subset_size=50),
        "kid_samples": len(samples),
    }
