"""The frozen CLIP: any open_clip model by name, by local file, or the small one of the avatar domain."""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple, cast

import open_clip
import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn

from asyrp_lit.shapes import Embeddings, Images

#: Name of the embedded CLIP.
AVATARS = "avatars"
_ASSETS = "assets/clip_avatars"


class ImageNormalisation(NamedTuple):
    """What an image tower expects: edge in pixels, channel mean and standard deviation of images in [0, 1]."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def prepare_images(x: Images, expected: ImageNormalisation) -> Float[Tensor, "batch channels size size"]:
    """Images in [-1, 1] as CLIP wants them: [0, 1], bicubic to its size, mean and std. Differentiable, not clamped.

    Equals open_clip's own transform on images whose size is already CLIP's.
    """
    x = (x + 1) / 2
    if x.shape[-2:] != (expected.size, expected.size):
        x = F.interpolate(x, (expected.size, expected.size), mode="bicubic", align_corners=False, antialias=True)
    mean = x.new_tensor(expected.mean).view(1, -1, 1, 1)
    std = x.new_tensor(expected.std).view(1, -1, 1, 1)
    return (x - mean) / std


class FrozenCLIP(nn.Module):
    """An open_clip model that is never trained; gradients flow to the images only.

    Args:
        model: open_clip's model with ``encode_image`` and ``encode_text``.
        tokenizer: turns a list of texts into tokens.
        expected: how the image tower wants its images.
        name: what to call it in reports.
    """

    def __init__(
        self, model: nn.Module, tokenizer: SimpleTokenizer | HFTokenizer, expected: ImageNormalisation, name: str
    ) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.expected = expected
        self.name = name

    def train(self, mode: bool = True) -> "FrozenCLIP":
        """Stay in eval mode."""
        return super().train(False)

    @property
    def logit_scale(self) -> float:
        """What its cosines are multiplied by before a softmax."""
        return float(self.model.logit_scale.exp())

    def encode_images(self, x: Images) -> Embeddings:
        """Unit-length embeddings of images in [-1, 1], in float32 also under autocast.

        In bfloat16 the direction between an image and a small edit of it would be rounding alone.
        """
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.model.encode_image(prepare_images(x.float(), self.expected)), dim=-1)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        """Unit-length embeddings of texts, one row each."""
        device = next(self.model.parameters()).device
        return F.normalize(self.model.encode_text(self.tokenizer(list(texts)).to(device)).float(), dim=-1)


def build_avatars_clip() -> tuple[open_clip.CLIP, SimpleTokenizer, ImageNormalisation]:
    """The architecture of the embedded CLIP with random weights, and its tokenizer (a cut of CLIP's own BPE)."""
    config = json.loads(files("asyrp_lit").joinpath(_ASSETS, "open_clip_config.json").read_text())
    cfg, preprocess = config["model_cfg"], config["preprocess_cfg"]
    with as_file(files("asyrp_lit").joinpath(_ASSETS, "bpe.txt.gz")) as bpe:
        tokenizer = SimpleTokenizer(str(bpe), context_length=cfg["text_cfg"]["context_length"])
    model = open_clip.CLIP(**cfg)
    expected = ImageNormalisation(cfg["vision_cfg"]["image_size"], tuple(preprocess["mean"]), tuple(preprocess["std"]))
    return model, tokenizer, expected


def load_avatars_clip(weights: Path | None = None) -> FrozenCLIP:
    """The embedded CLIP, from the package or from a safetensors file of the same architecture."""
    model, tokenizer, expected = build_avatars_clip()
    with as_file(files("asyrp_lit").joinpath(_ASSETS, "open_clip_model.safetensors")) as embedded:
        model.load_state_dict(load_file(weights or embedded))
    return FrozenCLIP(model, tokenizer, expected, AVATARS)


def load_clip(name: str = AVATARS, weights: str | None = None, cache: str | None = None) -> FrozenCLIP:
    """A frozen CLIP.

    Args:
        name: ``avatars`` or any architecture that open_clip lists, for example ``ViT-B-16``.
        weights: an open_clip tag (``openai``) or the path of a weight file; ``None`` only for ``avatars``.
        cache: folder that open_clip downloads tags to; ``None`` is its own default.

    Raises:
        ValueError: the name is unknown, or weights are missing for it.
        FileNotFoundError: ``weights`` looks like a path and is not there.
    """
    if name == AVATARS:
        return load_avatars_clip(Path(weights) if weights else None)
    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}; take 'avatars' or one of open_clip.list_models()")
    if weights is None:
        raise ValueError(f"clip.weights is needed for {name}: a tag such as 'openai', or the path of a weight file")
    if weights not in open_clip.list_pretrained_tags_by_model(name) and not Path(weights).exists():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise FileNotFoundError(f"CLIP weights {weights!r} are neither a file nor a tag of {name} (tags: {tags})")
    model = open_clip.create_model(name, pretrained=weights, cache_dir=cache, weights_only=True)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    size = preprocess["size"][0] if isinstance(preprocess["size"], (tuple, list)) else preprocess["size"]
    expected = ImageNormalisation(size, tuple(preprocess["mean"]), tuple(preprocess["std"]))
    return FrozenCLIP(model, open_clip.get_tokenizer(name), expected, f"{name}/{Path(weights).name}")


def find_clip_weights(name: str, weights: str | None, cache: str | None = None) -> Path | None:
    """Where the weights of a CLIP lie on this machine; ``None`` where ``load_clip`` would have to download them.

    Args:
        name: an architecture of open_clip.
        weights: its tag (``openai``) or the path of a weight file.
        cache: folder that open_clip downloads tags to; ``None`` is its own default.
    """
    if weights is None or Path(weights).is_file():
        return Path(weights) if weights else None
    repository, _, file = get_pretrained_cfg(name, weights).get("hf_hub", "").rpartition("/")
    for candidate in (file,) if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME):
        found = try_to_load_from_cache(repository, candidate, cache_dir=cache) if repository else None
        if isinstance(found, str):
            return Path(found)
    return None


@lru_cache(maxsize=1)
def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 ImageNet prompt templates as format strings with one ``{}`` (Radford et al. 2021)."""
    return tuple(cast(str, template("{}")) for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def choose_templates(name: str) -> tuple[str, ...]:
    """Prompt templates by name: ``imagenet`` for CLIP's 80, ``none`` for the bare text.

    Raises:
        ValueError: another name.
    """
    if name not in ("imagenet", "none"):
        raise ValueError(f"clip.templates must be 'imagenet' or 'none', got {name!r}")
    return imagenet_templates() if name == "imagenet" else ("{}",)
