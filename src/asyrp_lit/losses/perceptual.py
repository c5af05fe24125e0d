"""Frozen LPIPS (Zhang et al. 2018, arXiv 1801.03924) on AlexNet, from weights in the package: nothing is downloaded."""

import warnings
from importlib.resources import as_file, files
from pathlib import Path

import lpips
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from asyrp_lit.shapes import Images, PerSample

#: Images whose shorter edge has fewer pixels are enlarged to this; AlexNet's own limit is 31.
MIN_EDGE = 64
_ASSET = "assets/lpips_alex/lpips_alex_fp16.safetensors"


def enlarge_small(x: Images) -> Float[Tensor, "batch channels _ _"]:
    """Bilinear to a shorter edge of 64 px where it is less; other images come back untouched."""
    shorter = min(x.shape[-2:])
    if shorter >= MIN_EDGE:
        return x
    height, width = (round(edge * MIN_EDGE / shorter) for edge in x.shape[-2:])
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


class FrozenLPIPS(nn.Module):
    """LPIPS that is never trained; gradients flow to the images only.

    Args:
        network: ``lpips.LPIPS`` with its weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenLPIPS":
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, x: Images, y: Images) -> PerSample:
        """Distance of each pair, 0 for equal images.

        Args:
            x: images in [-1, 1]; under 64 px they are enlarged to 64, so values compare only at one image size.
            y: images of the same size.

        Returns:
            (B,) float32, also under autocast: half precision would cost more than the thresholds can bear.
        """
        with torch.autocast(x.device.type, enabled=False):
            distances: Tensor = self.network(enlarge_small(x.float()), enlarge_small(y.float()))
        return distances.flatten()


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return {key: value.float() for key, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"LPIPS weights {path} are not a readable safetensors file: {error}") from error


def _empty_network() -> nn.Module:
    # On the meta device: no 61 M random numbers are drawn, and the global generator stays where it is.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network: nn.Module = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    return network


def load_lpips(weights: Path | None = None) -> FrozenLPIPS:
    """LPIPS with AlexNet, frozen, float32, in eval mode.

    Args:
        weights: safetensors file with the keys of ``lpips.LPIPS``; ``None`` takes the file in the package.

    Raises:
        FileNotFoundError: ``weights`` is not there.
        ValueError: the file is unreadable, or its keys or shapes are not those of LPIPS AlexNet.
    """
    with as_file(files("asyrp_lit").joinpath(_ASSET)) as embedded:
        path = weights or embedded
        state = _read_weights(path)
    # The package keeps each head twice, as ``lin0`` and as ``lins.0``, the same module.
    state |= {key.replace("lin", "lins.", 1): value for key, value in state.items() if key.startswith("lin")}
    network = _empty_network()
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the weights of LPIPS AlexNet: {error}") from error
    return FrozenLPIPS(network)
