"""Strength 1 of a trained direction, chosen on train images that were set aside."""

import logging

import torch
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.hspace.scale import DeltaNetwork, FreeDelta, scale_delta
from asyrp_lit.stages.device import autocast_as, find_rank, pick_device
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.calibrate import choose_strength, measure_cosines

log = logging.getLogger(__name__)


def count_set_aside(cfg: DictConfig, num_images: int) -> int:
    """How many train images are kept for calibration, of which none is trained on: at most a quarter.

    Raises:
        ValueError: ``method.calibration`` names no strength, or a negative number of images.
    """
    wanted = cfg.method.calibration
    if not wanted.strengths or wanted.num_images < 0:
        raise ValueError(
            f"method.calibration must have one strength or more and num_images of 0 or more, got "
            f"{OmegaConf.to_container(wanted)}"
        )
    return min(int(wanted.num_images), num_images // 4)


def calibrate(cfg: DictConfig, module: AsyrpModule, store: LatentStore, num_trained: int) -> None:
    """Scale a trained direction so that strength 1 is what ``method.calibration`` finds; the checkpoint stays as it is.

    The images after the first ``num_trained`` are what it is measured on; of a slider, those that read as the source
    text.
    """
    if num_trained == len(store):
        return
    strengths = [float(strength) for strength in cfg.method.calibration.strengths]
    device = pick_device(cfg)
    module.to(device)
    items = [store[i] for i in range(num_trained, len(store))]
    x_0 = from_uint8(torch.stack([item["x_0"] for item in items])).to(device)
    x_T = torch.stack([item["x_T"] for item in items]).to(device)
    if module.loss.contrast is not None:
        encoded = [module.loss.clip.encode_images(part) for part in torch.split(x_0, cfg.inversion_batch_size)]
        moves = ~module.loss.read_as_target(torch.cat(encoded))
        x_0, x_T = x_0[moves], x_T[moves]
    if not len(x_0):
        log.warning("strength 1 stays as trained: all %d images set aside read as the target text already", len(items))
        return
    with autocast_as(cfg):
        cosines = measure_cosines(
            module.model,
            module.loss.clip,
            module.direction,
            x_0,
            x_T,
            module.loss.text_direction,
            strengths,
            module.grid,
            module.interval,
            module.alphas_cumprod,
            cfg.inversion_batch_size,
            progress=find_rank().number == 0,
        )
    module.strength = choose_strength(strengths, cosines)
    table = ", ".join(f"{s:g}: {cosine:.3f}" for s, cosine in zip(strengths, cosines, strict=True))
    log.info("strength 1 is set to %g of delta_h as trained (directional cosines %s)", module.strength, table)
    assert isinstance(module.direction, DeltaNetwork | FreeDelta)
    scale_delta(module.direction, module.strength)
