"""How well a text direction names what it means, before any training: true pairs of the avatar domain.

DiceBear draws a portrait twice with one attribute changed. The cosine between the image direction of such a pair and
the text direction is a ceiling for what a trained direction can reach.
"""

from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from asyrp_lit.data.avatars.dataset import pixels_to_images, select_portraits
from asyrp_lit.data.avatars.render import render_portrait
from asyrp_lit.data.avatars.traits import sample_traits
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import directional_cosine
from asyrp_lit.shapes import Embedding, Images, PerSample


def draw_true_pairs(
    split: str,
    num_pairs: int,
    labels: Mapping[str, Sequence[str]],
    where: Mapping[str, Sequence[str]] | None,
    size: int = 64,
) -> tuple[Images, Images]:
    """Portraits that meet ``where`` and the same ones with the target labels, both (N, 3, S, S) in [-1, 1].

    Args:
        split: of the portraits.
        num_pairs: N.
        labels: target label -> classes, of which the first is drawn.
        where: condition on the source portraits; ``None`` takes any.
        size: edge in pixels.
    """
    target = {name: classes[0] for name, classes in labels.items()}
    traits = [sample_traits(split, index) for index in select_portraits(split, num_pairs, where)]
    before = [render_portrait(t, size) for t in traits]
    after = [render_portrait(t.with_labels(target), size) for t in traits]
    return _stack(before), _stack(after)


def _stack(portraits: Sequence[Image.Image]) -> Images:
    pixels = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in portraits])
    size = portraits[0].size[0]
    return pixels_to_images(pixels.view(len(portraits), size, size, 3).numpy())


def true_pair_cosines(clip: FrozenCLIP, before: Images, after: Images, text_direction: Embedding) -> PerSample:
    """cos(dI, dT) of each true pair, in [-1, 1]."""
    with torch.no_grad():
        return directional_cosine(clip.encode_images(after), clip.encode_images(before), text_direction)
