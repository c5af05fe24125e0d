"""Pretraining of the embedded networks, and the finished weights with their model cards."""

import logging
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save
from torch import Tensor

from asyrp_lit.files import write_atomically
from asyrp_lit.losses.clip import FrozenCLIP, load_clip
from asyrp_lit.metrics.quality import draw_samples, judge_clip, judge_oracle, judge_unet
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.plots.grid import draw_contact_sheet
from asyrp_lit.plots.save import save_figure
from asyrp_lit.stages.guard import report_errors, run_folder, write_json
from asyrp_lit.stages.lock import alone_in_folder
from asyrp_lit.training.pretrain import fit_network, make_pretrain_loaders
from asyrp_lit.training.pretrain_diffusion import DiffusionPretrainer
from asyrp_lit.training.pretrain_readers import CLIPPretrainer
from asyrp_lit.training.state import load_whole

log = logging.getLogger(__name__)

DATA_LICENCE = (
    "Portraits drawn by DiceBear in the style Avataaars by Pablo Stanley, free for personal and commercial use "
    "(https://avataaars.com/)"
)


@report_errors
@alone_in_folder
def pretrain(cfg: DictConfig) -> None:
    """Train a network of the embedded avatar domain; a rerun resumes."""
    seed_everything(cfg.seed)
    loaders = make_pretrain_loaders(**cfg.network.data, cache=Path(cfg.paths.cache) / "avatars", seed=cfg.seed)
    module = instantiate(cfg.network.module)
    fit_network(
        module,
        loaders,
        run_folder(),
        **cfg.network.fit,
        ema_decay=cfg.network.ema_decay,
        resume=cfg.resume,
        accelerator=cfg.accelerator,
        recipe=_read_recipe(cfg),
    )


@report_errors
def export(cfg: DictConfig) -> None:
    """The weights of the last checkpoint in float16 with a model card, judged on test portraits."""
    checkpoint = run_folder() / "last.ckpt"
    if not checkpoint.is_file():
        raise FileNotFoundError(f"{checkpoint} does not exist: run pretrain.py for this network first")
    state = load_whole(checkpoint)
    module = instantiate(cfg.network.module)
    module.load_state_dict(state["state_dict"])
    if "recipe" not in state:
        log.warning(
            "%s is of an older version and says no settings: the card will say those of this command", checkpoint
        )
    recipe = state.get("recipe", _read_recipe(cfg))
    folder = Path(cfg.export) if cfg.export else run_folder() / "export"
    network, file, quality = _judge(module, folder)
    tensors = {key: _to_half(value) for key, value in network.state_dict().items()}
    write_atomically(folder / file, save(tensors))
    card = {
        "architecture": f"{type(network).__module__}.{type(network).__name__}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": recipe,
        "optimiser_steps": state["global_step"],
        "images_seen": state["global_step"] * recipe["data"]["batch_size"],
        "quality_on_test_portraits": quality,
        "stored_as": "float16 safetensors",
        "data_licence": DATA_LICENCE,
    }
    if cfg.note:
        card["note"] = cfg.note
    write_json(folder / "card.json", card)
    log.info("%s: %s", folder, quality)


def _read_recipe(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg.network, resolve=True))


def _judge(module: torch.nn.Module, folder: Path) -> tuple[torch.nn.Module, str, dict[str, float]]:
    """The network, its file name and its quality, measured on the half-precision weights that are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, DiffusionPretrainer):
        unet = _round_to_half(module.unet)
        unet.save_config(folder)
        model = HSpaceUNet(unet)
        samples = draw_samples(model, 64)
        save_figure(draw_contact_sheet(samples), folder / "samples.png")
        return unet, "diffusion_pytorch_model.safetensors", judge_unet(model, load_clip(), samples)
    network = _round_to_half(module.network)
    if isinstance(module, CLIPPretrainer):
        clip = FrozenCLIP(network, module.tokenizer, module.expected, "avatars")
        return network, "open_clip_model.safetensors", judge_clip(clip)
    return network, "oracle.safetensors", judge_oracle(network.eval())


def _to_half(value: Tensor) -> Tensor:
    return value.detach().half().contiguous() if value.is_floating_point() else value


def _round_to_half(network: Any) -> Any:
    network.load_state_dict({k: _to_half(v).to(v.dtype) for k, v in network.state_dict().items()})
    return network.eval()
