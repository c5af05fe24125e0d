"""Pretraining of a small noise predictor (DDPM, Ho et al. 2020) with min-SNR weights (Hang et al. 2023)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torch.optim.lr_scheduler import LambdaLR

from asyrp_lit.data.avatars.dataset import PortraitBatch
from asyrp_lit.diffusion.schedule import add_noise, compute_snr, gather_alpha_bar, make_alphas_cumprod
from asyrp_lit.shapes import Coef, Images, PerSample

MIN_SNR_GAMMA = 5.0


def ramped_lr(step: int, warmup: int, max_steps: int, decay_steps: int) -> float:
    """Factor on the learning rate: linear warm-up, constant, then a cosine to 0 over the last ``decay_steps``.

    Constant in the middle, so that a finished run goes on from an earlier checkpoint with a larger ``max_steps``.
    """
    if step < warmup:
        return (step + 1) / warmup
    into_decay = step - (max_steps - decay_steps)
    return 1.0 if into_decay <= 0 else 0.5 * (1 + math.cos(math.pi * min(1.0, into_decay / max(1, decay_steps))))


def multiscale_eps_loss(eps_pred: Images, eps: Images, alpha_bar_t: Coef, scales: Sequence[int]) -> PerSample:
    """Squared error of eps per sample, of its means over s x s squares for every scale s, weighted s min(SNR, 5) / SNR.

    Averaging over s x s squares leaves the image and divides the variance of white noise by s^2, so each scale has an
    SNR of its own, s^2 times that of a pixel, and its min-SNR weight (Hang et al. 2023, section 3.4) follows from it.
    A pixel loss alone hardly sees the mean colour (three of 12,288 coefficients), while P_t at t near T multiplies its
    error by 150 and the samples drift in colour (Hoogeboom et al. 2023, "simple diffusion", section 3.2, adds coarse
    scales for the same reason). Every scale has its least value at E[eps | x_t], so the optimum stays where it was.

    Args:
        eps_pred, eps: (B, 3, S, S).
        alpha_bar_t: alpha_bar at each sample's t.
        scales: edges of the squares in pixels, each dividing S; ``[1]`` is the plain loss.
    """
    error = eps_pred - eps
    snr = compute_snr(alpha_bar_t).flatten()
    loss = torch.zeros_like(snr)
    for s in scales:
        pooled = avg_pool2d(error, s).square().mean(dim=(1, 2, 3))
        loss = loss + s * (s**2 * snr).clamp(max=MIN_SNR_GAMMA) / (s**2 * snr) * pooled
    return loss


def flip_at_random(x: Images) -> Images:
    """Each image mirrored left to right with probability 1/2."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(-1), x)


class RampedEMA(WeightAveraging):
    """Exponential moving average of the weights whose decay grows as (1 + n) / (10 + n) up to ``decay``."""

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
            n = float(num_averaged)
            return torch.lerp(current.to(averaged.dtype), averaged, min(decay, (1 + n) / (10 + n)))

        super().__init__(avg_fn=average)


class DiffusionPretrainer(LightningModule):
    """Trains a UNet2DModel to predict eps; the EMA callback decides which weights are kept.

    Args:
        unet: network with 3 output channels.
        lr: learning rate after warm-up.
        warmup: optimiser steps of linear warm-up.
        max_steps: optimiser steps in all.
        decay_steps: how many of the last steps the learning rate falls to 0 over.
        scales: squares in pixels that the error is averaged over, see ``multiscale_eps_loss``.
        noise_jitter: standard deviation of a factor on each image's noise, around 1. Latents on their way through a
            sampler carry a little more or less noise than the schedule says. A network that has never seen such x_t
            answers with the schedule's amount (its GroupNorms take the scale away), so the surplus is never removed and
            ends as grain in the picture.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: UNet2DModel,
        lr: float,
        warmup: int,
        max_steps: int,
        decay_steps: int,
        scales: Sequence[int] = (1,),
        noise_jitter: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters("lr", "warmup", "max_steps", "decay_steps")
        self.scales = tuple(scales)
        self.noise_jitter = noise_jitter
        self.unet = unet
        self.register_buffer("alphas_cumprod", make_alphas_cumprod(), persistent=False)

    def _loss(self, x_0: Images, t: Tensor, eps: Images) -> Tensor:
        alpha_bar_t = gather_alpha_bar(self.alphas_cumprod, t)
        eps_pred = self.unet(add_noise(x_0, eps, alpha_bar_t), t).sample.float()
        return multiscale_eps_loss(eps_pred, eps, alpha_bar_t, self.scales).mean()

    def training_step(self, batch: PortraitBatch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        x_0 = flip_at_random(batch.x_0)
        t = torch.randint(0, len(self.alphas_cumprod), (len(x_0),), device=x_0.device)
        scale = 1 + self.noise_jitter * torch.randn(len(x_0), 1, 1, 1, device=x_0.device)
        loss = self._loss(x_0, t, scale * torch.randn_like(x_0))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: PortraitBatch, batch_idx: int) -> None:
        """The same numbers on val every time."""
        generator = torch.Generator().manual_seed(batch_idx)
        x_0 = batch.x_0
        t = torch.randint(0, len(self.alphas_cumprod), (len(x_0),), generator=generator).to(x_0.device)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0.device)
        self.log("val/loss", self._loss(x_0, t, eps), prog_bar=True, batch_size=len(x_0))

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and decay."""
        hparams = self.hparams
        optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=hparams["lr"], betas=(0.9, 0.99), weight_decay=1e-4, foreach=True
        )

        def factor(step: int) -> float:
            return ramped_lr(step, hparams["warmup"], hparams["max_steps"], hparams["decay_steps"])

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
