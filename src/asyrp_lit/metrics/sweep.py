"""Edits at several strengths or in several intervals, judged."""

from collections.abc import Mapping

import torch
from tqdm import tqdm

from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.intervals import NEVER
from asyrp_lit.editing.seeds import derive_seeds
from asyrp_lit.editing.strips import RECONSTRUCTION, name_strength, sample_strengths
from asyrp_lit.hspace.direction import Direction
from asyrp_lit.metrics.panel import MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images


def judge_strengths(
    model: HSpaceUNet,
    store: LatentStore,
    grid: tuple[int, ...],
    direction: Direction,
    interval: Interval,
    panels: Mapping[float, MetricPanel],
    batch_size: int,
    device: torch.device,
    seed: int = 0,
) -> dict[str, Images]:
    """Edit every image at every strength and feed the panels; the reconstruction is sampled once for all of them.

    Args:
        model: the frozen network, on ``device``.
        store: latents on the same time grid.
        grid: ascending timesteps.
        direction: for strength 1.
        interval: t_edit and t_boost.
        panels: strength -> its metrics.
        batch_size: images per pass.
        device: where to compute.
        seed: of the boosting noise, with each image's own pixels.

    Returns:
        Column name -> images in the order of the store, on the CPU: source, reconstruction, then each strength.
    """
    alphas_cumprod = make_alphas_cumprod().to(device)
    found: list[dict[str, Images]] = []
    per_batch = max(1, batch_size // (len(panels) + 1))
    with tqdm(total=len(store), desc="judge edits", unit="img") as bar:
        for first in range(0, len(store), per_batch):
            indices = range(first, min(first + per_batch, len(store)))
            items = [store[i] for i in indices]
            x_0 = from_uint8(torch.stack([item["x_0"] for item in items])).to(device)
            x_T = torch.stack([item["x_T"] for item in items]).to(device)
            common = (model, x_T, grid, alphas_cumprod, direction, interval)
            columns = sample_strengths(*common, (None, *panels), derive_seeds(x_0, seed))
            for strength, panel in panels.items():
                panel.update(x_0, columns[RECONSTRUCTION], columns[name_strength(strength)])
            found.append({name: images.float().cpu() for name, images in ({"source": x_0} | columns).items()})
            bar.update(len(indices))
    return {name: torch.cat([columns[name] for columns in found]) for name in found[0]}


def judge_intervals(
    x_0: Images,
    edits: Mapping[Interval, Images],
    panels: Mapping[Interval, MetricPanel],
    batch_size: int,
    device: torch.device,
) -> None:
    """Feed the panels with edits of images in several intervals.

    Args:
        x_0: images in [-1, 1].
        edits: interval -> what became of them; that of ``NEVER`` is the reconstruction.
        panels: interval -> its metrics.
        batch_size: images at once.
        device: where to judge.
    """
    for numbers in torch.split(torch.arange(len(x_0)), batch_size):
        source, reconstruction = x_0[numbers].to(device), edits[NEVER][numbers].to(device)
        for interval, panel in panels.items():
            panel.update(source, reconstruction, edits[interval][numbers].to(device))
