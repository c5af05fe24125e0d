"""The LightningModule that a configuration asks for."""

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from asyrp_lit.data.avatars.captions import other_prompts
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.hspace.attribute import AVATARS, Attribute
from asyrp_lit.hspace.combine import rescale_to_steps
from asyrp_lit.hspace.direction import direction_arguments, load_direction, make_direction
from asyrp_lit.hspace.scale import DeltaNetwork, FreeDelta, scale_delta
from asyrp_lit.losses.clip import FrozenCLIP, choose_templates
from asyrp_lit.losses.directional import compute_cos_text, compute_text_direction
from asyrp_lit.losses.kept import KeptReadings
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.stages.capacity import AUTO
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss


def build_loss(cfg: DictConfig, clip: FrozenCLIP, attribute: Attribute) -> EditLoss:
    """What training minimises; where it edits at strengths below 0, with CLIP's reading of the attribute itself."""
    src_text, trg_text = attribute.src_text, attribute.trg_text
    keep = attribute.keep
    if keep is None and attribute.labels is not None and cfg.model.domain == AVATARS:
        keep = tuple(other_prompts(attribute.labels))
    return EditLoss(
        clip,
        compute_text_direction(clip, src_text, trg_text, choose_templates(cfg.clip.templates)),
        compute_cos_text(clip, src_text, trg_text),
        instantiate(cfg.method.loss),
        KeptReadings(clip, keep) if keep else None,
        KeptReadings(clip, [(src_text, trg_text)]) if cfg.method.train_strengths[0] < 0 else None,
    )


def build_direction(cfg: DictConfig, model: HSpaceUNet, grid: tuple[int, ...], init_from: Path | None) -> nn.Module:
    """What is trained, as it is before training; a file of other steps is scaled so that its edit stays the same.

    Raises:
        ValueError: ``init_from`` is a direction of another base model, kind or shape.
    """
    method = cfg.method
    arguments = direction_arguments(method.kind, model.h_channels, model.h_size, model.temb_channels, grid)
    direction = make_direction(method.kind, **arguments)
    if init_from is not None:
        first, info = load_direction(init_from, model.fingerprint(), model.name)
        if (info.kind, info.arguments) != (method.kind, arguments):
            raise ValueError(
                f"method.init_from={init_from} ({info.kind}, {info.num_steps} steps) does not fit method.kind="
                f"{method.kind} with {len(grid)} steps: train with the method and method.num_steps that it has"
            )
        direction.load_state_dict(first.state_dict())
        assert isinstance(direction, DeltaNetwork | FreeDelta)
        scale_delta(direction, rescale_to_steps(info.num_steps, method.num_steps))
    elif isinstance(direction, DeltaNetwork):
        scale_delta(direction, method.init_scale)
    return direction


def build_module(
    cfg: DictConfig,
    model: HSpaceUNet,
    clip: FrozenCLIP,
    attribute: Attribute,
    grid: tuple[int, ...],
    interval: Interval,
    init_from: Path | None = None,
) -> AsyrpModule:
    """The LightningModule from its built parts, whose direction begins as the file ``init_from`` or anew."""
    method, direction = cfg.method, build_direction(cfg, model, grid, init_from)
    low, high = method.train_strengths
    loss = build_loss(cfg, clip, attribute)
    oracle = load_oracle() if cfg.model.domain == AVATARS else None
    return AsyrpModule(
        model,
        direction,
        loss,
        grid,
        interval,
        instantiate(method.optimizer, _convert_="all"),  # its settings are saved, as plain values
        method.lr_decay,
        method.lr_final,
        method.stagger,
        None if method.chunk_size == AUTO else method.chunk_size,
        method.grad_clip,
        MetricPanel(Judges(clip, load_lpips(), oracle), loss.text_direction, attribute.labels),
        float(cfg.judged),
        (float(low), float(high)),
        cfg.seed,
    )
