"""Base models and directions for them, by name or path."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asyrp_lit.editing.plan import LoadedDirection
from asyrp_lit.hspace.direction import Direction, DirectionInfo, check_base
from asyrp_lit.hspace.direction import load_direction as load_direction_file
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import EMBEDDED, load_base_model, load_embedded, load_folder


@dataclass(frozen=True)
class ModelDirection:
    """A direction that was found to fit a base model.

    Attributes:
        direction: what proposes delta_h.
        info: what its file says.
        model: the base model.
    """

    direction: Direction
    info: DirectionInfo
    model: HSpaceUNet

    @property
    def name(self) -> str:
        """Of its attribute."""
        return self.info.attribute

    def place_on(self, model: HSpaceUNet, device: torch.device) -> LoadedDirection:
        """Direction and file entries for an edit with a base model.

        Raises:
            ValueError: it is for another base model.
        """
        if model is not self.model:
            check_base(self.info, self.name, model.fingerprint(), model.name)
        if isinstance(self.direction, torch.nn.Module):
            self.direction.to(device)
        return self.direction, self.info


def load_model(
    model: str | Path,
    image_size: int | None = None,
    num_head_channels: int | None = None,
    norm_eps: float | None = None,
    device: str | torch.device = "cpu",
) -> HSpaceUNet:
    """A frozen base model.

    Args:
        model: name of an embedded one (``ddpmpp_avatars``), a diffusers folder with a UNet2DModel (a pipeline's too),
            or a ``.pt``, ``.ckpt`` or ``.safetensors`` in the keys of DDPM++ or guided-diffusion.
        image_size: edge of its images in pixels, which such a file does not tell.
        num_head_channels, norm_eps: of such a file, as for ``load_base_model``.
        device: where to compute.

    Raises:
        FileNotFoundError: it is neither embedded nor there.
        ValueError: it cannot be read, or a file comes without ``image_size``.
    """
    found = _find_model(model, image_size, {"num_head_channels": num_head_channels, "norm_eps": norm_eps})
    return found.to(device).to(memory_format=torch.channels_last)


def _find_model(model: str | Path, image_size: int | None, settings: dict[str, Any]) -> HSpaceUNet:
    path = Path(model).expanduser()
    if str(model) in EMBEDDED:
        return load_embedded(str(model))
    if path.is_dir():
        return load_folder(path.name, path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file or folder {model}, nor an embedded base model of that name ({', '.join(EMBEDDED)}); "
            "weights.py says where published ones can be had"
        )
    if image_size is None:
        raise ValueError(f"{path} does not tell the size of its images: give image_size=, such as 256")
    cache = os.environ.get("ASYRP_CACHE") or Path.home() / ".cache" / "asyrp_lit"
    return load_base_model(path.stem, image_size, cache, path, **settings)


def load_direction(direction: str | Path, model: HSpaceUNet) -> ModelDirection:
    """A direction for a base model.

    Args:
        direction: a direction file, or the name of an embedded direction.
        model: what it will be used on; its weights must be those of the training, in float32.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: it is no direction file, damaged, or for another base model.
    """
    found, info = load_direction_file(find_direction(direction), model.fingerprint(), model.name)
    assert isinstance(found, Direction)
    return ModelDirection(found, info, model)
