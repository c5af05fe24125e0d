"""What strength 1 means after training: the multiple of delta_h that CLIP likes best on images not trained on.

Not in Asyrp's paper. f_t proposes more on new images than they need: of a smile the directional cosine was largest at
strength 1 on the images of training and at 0.5 on others, where success and preservation were best too.
"""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.editing.strips import sample_strengths
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import directional_cosine
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Embedding, Images, Table

#: Cosines nearer than this are taken for equal.
TOLERANCE = 0.01


@torch.no_grad()
def measure_cosines(
    model: HSpaceUNet,
    clip: FrozenCLIP,
    direction: Direction,
    x_0: Images,
    x_T: Images,
    text_direction: Embedding,
    strengths: Sequence[float],
    grid: tuple[int, ...],
    interval: Interval,
    alphas_cumprod: Table,
    batch_size: int = 16,
    progress: bool = True,
) -> list[float]:
    """Mean directional cosine of the edits at each strength, in [-1, 1].

    Args:
        model, direction, grid, interval, alphas_cumprod: as for ``sample_images``; nothing is boosted.
        clip: frozen CLIP.
        x_0: source images, (B, C, S, S) in [-1, 1].
        x_T: their latents.
        text_direction: dT, (1, D).
        strengths: one or more multiples of delta_h.
        batch_size: pictures per pass, about.
        progress: whether to show a bar over images.
    """
    per_batch = max(1, batch_size // len(strengths))
    unboosted, found = interval._replace(t_boost=0), []
    with tqdm(total=len(x_0), desc="calibrate", unit="img", disable=not progress) as bar:
        for first in range(0, len(x_0), per_batch):
            images, latents = x_0[first : first + per_batch], x_T[first : first + per_batch]
            common = (model, latents, grid, alphas_cumprod, direction, unboosted)
            columns = sample_strengths(*common, tuple(strengths), list(range(len(latents))))
            source = clip.encode_images(images)
            cosines = [directional_cosine(clip.encode_images(x), source, text_direction) for x in columns.values()]
            found.append(torch.stack(cosines))
            bar.update(len(images))
    return torch.cat(found, dim=1).mean(dim=1).tolist()


def choose_strength(strengths: Sequence[float], cosines: Sequence[float]) -> float:
    """The largest strength whose cosine is within ``TOLERANCE`` of the best; cosines do not see an edit's size."""
    best = max(cosines)
    return max(s for s, cosine in zip(strengths, cosines, strict=True) if cosine >= best - TOLERANCE)
