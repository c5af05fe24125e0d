"""The attribute oracle of the avatar domain: a classifier from pixels to labels, independent of CLIP."""

from importlib.resources import as_file, files
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED
from asyrp_lit.shapes import Images, Labels


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1),
        nn.GroupNorm(8, out_channels),
        nn.SiLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1),
        nn.GroupNorm(8, out_channels),
        nn.SiLU(),
    )


class AttributeOracle(nn.Module):
    """64 px portraits in [-1, 1] -> logits of every label, in the order of ``LABELS``.

    Args:
        width: channels of the first level; they double twice.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _downsample(3, width), _downsample(width, 2 * width), _downsample(2 * width, 4 * width), nn.Flatten()
        )
        self.hidden = nn.Sequential(nn.Dropout(0.3), nn.Linear(4 * width * 8 * 8, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(classes)) for name, classes in LABELS.items()})

    def forward(self, x: Images) -> dict[str, Tensor]:
        """Label name -> logits (B, classes). Images of another size are resized to 64 px."""
        if x.shape[-2:] != (64, 64):
            x = F.interpolate(x, (64, 64), mode="bicubic", align_corners=False, antialias=True)
        hidden = self.hidden(self.body(x))
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def predict(self, x: Images) -> Labels:
        """Most likely class per label, (B, 6) int64; the hair colour of a bald head is -1."""
        logits = self(x)
        labels = torch.stack([logits[name].argmax(-1) for name in LABELS], dim=1)
        names = list(LABELS)
        bald = labels[:, names.index("hair_length")] == LABELS["hair_length"].index("bald")
        labels[bald, names.index("hair_color")] = UNDEFINED
        return labels


def load_oracle(weights: Path | None = None) -> AttributeOracle:
    """The embedded oracle, frozen, from the package or from a safetensors file."""
    oracle = AttributeOracle()
    with as_file(files("asyrp_lit").joinpath("assets/oracle_avatars/oracle.safetensors")) as embedded:
        oracle.load_state_dict({key: value.float() for key, value in load_file(weights or embedded).items()})
    return oracle.eval().requires_grad_(False)
