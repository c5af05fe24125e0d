"""Base models by name: the embedded one, diffusers folders, checkpoints in the original key styles."""

import json
import logging
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from asyrp_lit.models.checkpoint import identify_style, read_checkpoint
from asyrp_lit.models.convert import SHOWN_KEYS, StateDict, UNetConfig
from asyrp_lit.models.convert_adm import convert_adm_state_dict, infer_adm_config
from asyrp_lit.models.convert_ddpm import convert_ddpm_state_dict, infer_ddpm_config
from asyrp_lit.models.converted import (
    discard_converted,
    is_converted,
    keep_converted,
    place_converted,
    read_fingerprint,
)
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.weights import WeightSource, find_weights

log = logging.getLogger(__name__)

#: Of a scheduler_config.json: what the method's schedule is, DDPM's linear one predicting eps.
SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCHEDULE |= {"prediction_type": "epsilon", "trained_betas": None, "rescale_betas_zero_snr": False}
#: Eps of GroupNorm in the code of either key style; no shape tells it.
NORM_EPS = {"ddpm": "1e-6", "adm": "1e-5"}
#: Base models that ship with the package.
EMBEDDED = ("ddpmpp_avatars",)


def load_embedded(name: str) -> HSpaceUNet:
    """A base model that ships with the package, such as ``ddpmpp_avatars``."""
    with as_file(files("asyrp_lit").joinpath("assets", name)) as folder:
        return load_folder(name, folder)


def load_base_model(
    name: str,
    image_size: int,
    cache: str | Path,
    weights: str | Path | None = None,
    source: WeightSource | None = None,
    config: UNetConfig | None = None,
    num_head_channels: int | None = None,
    norm_eps: float | None = None,
) -> HSpaceUNet:
    """A base model from a diffusers folder or a checkpoint in either original key style, strictly.

    Args:
        name: of the base model.
        image_size: edge of its images in pixels.
        cache: cache folder, for downloads and conversions.
        weights: file or folder; ``None`` to look in the cache and to fetch.
        source: where to look and fetch from; ``None`` where only ``weights`` can tell.
        config: arguments of UNet2DModel for a checkpoint; ``None`` to read them from the shapes.
        num_head_channels: channels of one attention head, which guided-diffusion's shapes do not tell.
        norm_eps: of all GroupNorms, which shapes do not tell either.

    Raises:
        FileNotFoundError: the weights are not there; the message says what to do.
        ValueError: they cannot be read or do not fit.
    """
    path = find_weights(name, weights, source, cache)
    if path.is_dir():
        if config is None and (num_head_channels, norm_eps) != (None, None):
            raise ValueError(
                f"base model {name}: {path} is a diffusers folder and says its own head width and norm eps; leave "
                "model.num_head_channels and model.norm_eps out"
            )
        model = load_folder(name, path)
    else:
        folder = Path(cache).expanduser()
        model = load_checkpoint(name, path, folder, config, image_size, num_head_channels, norm_eps)
    if model.image_size != image_size:
        raise ValueError(
            f"base model {name}: {path} is for images of {model.image_size} px, but model.image_size is {image_size}"
        )
    return model


def load_folder(name: str, folder: str | Path, variant: str | None = None) -> HSpaceUNet:
    """A UNet2DModel from a local diffusers folder, or a pipeline's with one below ``unet``, in float32.

    Args:
        name: of the base model.
        folder: where it is.
        variant: of the weights' files, as diffusers means it; ``None`` for those without one.

    Raises:
        FileNotFoundError: the folder lacks the configuration or the weights.
        ValueError: it is another kind of network, has another schedule, or the weights do not fit.
    """
    folder = Path(folder)
    _check_schedule(name, folder)
    unet_folder = folder / "unet" if (folder / "unet" / "config.json").is_file() else folder
    _check_kind(name, unet_folder)
    try:
        unet, found = UNet2DModel.from_pretrained(
            unet_folder,
            output_loading_info=True,
            low_cpu_mem_usage=False,
            local_files_only=True,
            use_safetensors=any(unet_folder.glob("*.safetensors")),
            variant=variant,
            torch_dtype=torch.float32,
        )
    except RuntimeError as error:
        lines = "\n".join(str(error).splitlines()[:6])
        raise ValueError(
            f"base model {name}: the weights in {folder} do not fit its configuration.\n{lines}"
        ) from error
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"base model {name}: the weights in {folder} cannot be read ({reason})") from error
    for problem in ("missing_keys", "unexpected_keys"):
        if found[problem]:
            raise ValueError(
                f"base model {name}: the weights in {folder} have {problem.replace('_', ' ')} "
                f"({len(found[problem])} in all): {', '.join(sorted(found[problem])[:SHOWN_KEYS])}"
            )
    return HSpaceUNet(unet, name)


def _check_kind(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"base model {name}: {folder / 'config.json'} does not exist; a diffusers UNet2DModel folder holds it"
        )
    if not any(folder.glob("diffusion_pytorch_model*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(
            f"base model {name}: {folder / 'diffusion_pytorch_model.safetensors'} does not exist; a diffusers "
            "UNet2DModel folder holds it"
        )
    kind = _read_json(name, folder / "config.json").get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise ValueError(
            f"base model {name}: {folder} holds a {kind}, not a UNet2DModel; networks on latents or with texts, such "
            "as Stable Diffusion's, do not fit"
        )


def _check_schedule(name: str, folder: Path) -> None:
    """Refuse a pipeline whose noise schedule is not DDPM's linear one."""
    for path in (folder / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"):
        if path.is_file():
            check_schedule(_read_json(name, path), f"base model {name}: {path}")


def check_schedule(found: Mapping[str, Any], where: str) -> None:
    """Refuse a scheduler's settings that are not DDPM's linear schedule; what they don't say is taken to be right.

    Raises:
        ValueError: they say something else.
    """
    if wrong := [f"{key}={found[key]}" for key, value in SCHEDULE.items() if found.get(key, value) != value]:
        wanted = ", ".join(f"{key}={value}" for key, value in SCHEDULE.items())
        raise ValueError(f"{where} says {', '.join(wrong)}; the method here needs {wanted}")


def _read_json(name: str, path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"base model {name}: {path} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"base model {name}: {path} holds no settings")
    return content


def load_checkpoint(
    name: str,
    checkpoint: Path,
    cache: Path,
    config: UNetConfig | None = None,
    image_size: int = 256,
    num_head_channels: int | None = None,
    norm_eps: float | None = None,
) -> HSpaceUNet:
    """A checkpoint in an original key style, converted strictly; the conversion is kept in the cache.

    Arguments and errors are ``load_base_model``'s.
    """
    settings = (
        {"config": config}
        if config is not None
        else {
            "image_size": image_size,
            "num_head_channels": num_head_channels,
            "norm_eps": norm_eps,
        }
    )
    folder = place_converted(name, checkpoint, settings, cache)

    def convert() -> tuple[UNetConfig, StateDict]:
        state_dict = read_checkpoint(checkpoint, name)
        try:
            chosen = config or infer_config(state_dict, image_size, num_head_channels, norm_eps)
            return chosen, convert_state_dict(state_dict, chosen)
        except ValueError as error:
            raise ValueError(f"base model {name}: {checkpoint}: {error}") from error

    if is_converted(folder) and (kept := _load_kept(name, folder)):
        return kept
    model = _build(name, *convert())
    record = {"checkpoint": str(checkpoint), "settings": settings, "fingerprint": model.fingerprint()}
    keep_converted(folder, model.unet, record)
    return model


def _load_kept(name: str, folder: Path) -> HSpaceUNet | None:
    """A kept conversion, if it is still what was written; else it is removed."""
    try:
        model = load_folder(name, folder)
        if model.fingerprint() == read_fingerprint(folder):
            return model
        reason = "its weights or settings have changed"
    except (ValueError, OSError) as error:
        reason = str(error)
    log.warning("base model %s is converted anew, for %s is damaged: %s", name, folder, reason)
    discard_converted(folder)
    return None


def _build(name: str, config: UNetConfig, state_dict: StateDict) -> HSpaceUNet:
    unet = UNet2DModel(**config)
    unet.load_state_dict({key: value.float() for key, value in state_dict.items()})
    return HSpaceUNet(unet, name)


def infer_config(
    state_dict: StateDict, image_size: int, num_head_channels: int | None = None, norm_eps: float | None = None
) -> UNetConfig:
    """Arguments of UNet2DModel as far as shapes tell them, the rest as given.

    Raises:
        ValueError: what shapes do not tell is not given, or they are no such network's.
    """
    style = identify_style(state_dict)
    heads = "model.num_head_channels=64, the width of an attention head in the released networks"
    groups = f"model.norm_eps={NORM_EPS[style]}, the eps of GroupNorms in the code of such files"
    missing = [heads] if style == "adm" and num_head_channels is None else []
    if norm_eps is None or missing:
        missing += [groups] if norm_eps is None else []
        raise ValueError(f"its shapes do not tell every setting; give {' and '.join(missing)}")
    if style == "ddpm":
        return infer_ddpm_config(state_dict, image_size, norm_eps)
    assert num_head_channels is not None
    return infer_adm_config(state_dict, image_size, num_head_channels, norm_eps)


def convert_state_dict(state_dict: StateDict, config: UNetConfig) -> StateDict:
    """The UNet2DModel state dict of either key style.

    Raises:
        ValueError: it is of the other family, a key is left over or missing, or a shape differs.
    """
    style, wanted = identify_style(state_dict), "adm" if config["flip_sin_to_cos"] else "ddpm"
    if style != wanted:
        families = {"ddpm": "a DDPM++", "adm": "a guided-diffusion network"}
        raise ValueError(f"it has the keys of {families[style]}, but this model is {families[wanted]}")
    convert = {"ddpm": convert_ddpm_state_dict, "adm": convert_adm_state_dict}[style]
    return convert(state_dict, config)
