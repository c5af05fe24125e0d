"""Base models by name: the embedded one, diffusers folders and released checkpoints."""

import pickle
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from asyrp_lit.models.convert_ddpm import config_from_ddpm, convert_ddpm_state_dict
from asyrp_lit.models.hspace_unet import HSpaceUNet

_WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_folder(name: str, folder: str | Path) -> HSpaceUNet:
    """A UNet2DModel from a local diffusers folder (``config.json`` and safetensors), in float32.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: the weights do not fit the configuration.
    """
    folder = Path(folder)
    for file in (folder / "config.json", folder / _WEIGHTS):
        if not file.is_file():
            raise FileNotFoundError(
                f"base model {name}: {file} does not exist; a diffusers UNet2DModel folder holds it"
            )
    unet = UNet2DModel(**_plain_config(UNet2DModel.load_config(folder)))
    _load_strictly(unet, load_file(folder / _WEIGHTS), name, folder)
    return HSpaceUNet(unet, name)


def load_embedded(name: str) -> HSpaceUNet:
    """A base model that ships with the package, such as ``ddpmpp_avatars``."""
    with as_file(files("asyrp_lit").joinpath("assets", name)) as folder:
        return load_folder(name, folder)


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _load_strictly(unet: UNet2DModel, tensors: Mapping[str, torch.Tensor], name: str, source: Path) -> None:
    try:
        unet.load_state_dict({key: value.float() for key, value in tensors.items()})
    except RuntimeError as error:
        lines = "\n".join(str(error).splitlines()[:6])
        raise ValueError(
            f"base model {name}: the weights in {source} do not fit its configuration.\n{lines}"
        ) from error


def load_ddpm_checkpoint(name: str, weights: str | Path, **hyper_parameters: Any) -> HSpaceUNet:
    """A DDPM++ in its original key style (SDEdit's ``celeba_hq.ckpt`` and the like), converted strictly.

    Args:
        name: of the base model.
        weights: the checkpoint; read with ``weights_only``.
        **hyper_parameters: as for ``convert_ddpm.config_from_ddpm``.

    Raises:
        FileNotFoundError: the checkpoint is not there; the message says where it is expected.
        ValueError: it cannot be read, or does not fit the hyper-parameters.
    """
    config = config_from_ddpm(**hyper_parameters)
    state_dict = convert_ddpm_state_dict(_read_checkpoint(name, Path(weights)), config)
    unet = UNet2DModel(**config)
    unet.load_state_dict(state_dict)
    return HSpaceUNet(unet, name)


def _read_checkpoint(name: str, weights: Path) -> dict[str, torch.Tensor]:
    if not weights.is_file():
        raise FileNotFoundError(
            f"base model {name} needs its checkpoint at {weights}, which does not exist. Put {weights.name} there, "
            "or name its place with model.build.weights=/path/to/file. The embedded model=ddpmpp_avatars needs no file"
        )
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise ValueError(f"base model {name}: {weights} is not a readable checkpoint of tensors ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"base model {name}: {weights} holds a {type(content).__name__} and no state dict")
    return content
