"""LPIPS along the inversion of many images, from which t_edit and t_boost are chosen (Asyrp, section 4).

<root>/lpips-ddpmpp_avatars-avatars-train-40steps-1f0c.../
    images-000000-000015.safetensors       the distances of each of these images, and so on
"""

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm

from asyrp_lit.files import hold_alone, write_atomically
from asyrp_lit.hspace.interval import LPIPSCurves
from asyrp_lit.inversion.invert import trace_inversion
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images, Table

log = logging.getLogger(__name__)

#: One number for every image and timestep.
Distances = Float[Tensor, "images timesteps"]
_QUARTILES = (0.25, 0.75)


class LPIPSProfile(NamedTuple):
    """LPIPS of each image along its inversion, at ascending timesteps.

    Attributes:
        timesteps: where it was measured.
        pred_x0: LPIPS(x_0, P_t).
        x_t: LPIPS(x_0, x_t).
    """

    timesteps: tuple[int, ...]
    pred_x0: Distances
    x_t: Distances

    def average(self) -> LPIPSCurves:
        """The means over the images, which the thresholds are for."""
        return self._reduce(partial(torch.mean, dim=0))

    def find_quartiles(self) -> tuple[LPIPSCurves, LPIPSCurves]:
        """What a quarter of the images stays below, and what a quarter exceeds, at every timestep."""
        lower, upper = (self._reduce(partial(torch.quantile, q=q, dim=0)) for q in _QUARTILES)
        return lower, upper

    def _reduce(self, reduce: Callable[[Tensor], Tensor]) -> LPIPSCurves:
        pred_x0, x_t = (
            tuple(round(value, 5) for value in reduce(distances.double()).tolist())
            for distances in (self.pred_x0, self.x_t)
        )
        return LPIPSCurves(self.timesteps, pred_x0, x_t, num_images=len(self.x_t))


@torch.inference_mode()
def measure_lpips(
    model: HSpaceUNet,
    x_0: Images,
    grid: Sequence[int],
    alphas_cumprod: Table,
    lpips: nn.Module,
    count_passes: Callable[[int], object] = lambda passes: None,
) -> LPIPSProfile:
    """LPIPS(x_0, P_t) and LPIPS(x_0, x_t) of a batch at every grid point but the last.

    Takes ``len(grid) - 1`` U-Net passes an image.

    Args:
        model: the frozen network.
        x_0: images in [-1, 1], (B, 3, S, S).
        grid: ascending timesteps.
        alphas_cumprod: the schedule's table.
        lpips: (B, 3, S, S) twice -> (B,).
        count_passes: called after every timestep with its passes, for a progress bar.
    """
    rows: list[tuple[Tensor, Tensor]] = []
    for point in trace_inversion(model, x_0, grid, alphas_cumprod):
        rows.append((lpips(x_0, point.pred_x0), lpips(x_0, point.x_t)))
        count_passes(len(x_0))
    pred_x0, x_t = (torch.stack(column, dim=1).float().cpu() for column in zip(*rows, strict=True))
    return LPIPSProfile(tuple(grid[:-1]), pred_x0, x_t)


def profile_images(
    model: HSpaceUNet,
    read_images: Callable[[Sequence[int]], Images],
    num_images: int,
    folder: Path,
    grid: Sequence[int],
    alphas_cumprod: Table,
    lpips: nn.Module,
    batch_size: int,
) -> LPIPSProfile:
    """The profile of the first images of a source; what ``folder`` has of it is not computed again.

    One process measures, others that want the same wait for it. A batch is kept as soon as it is done. Batches begin at
    multiples of ``batch_size``, so that the numbers do not depend on where an earlier run was stopped.

    Args:
        model, grid, alphas_cumprod, lpips: as for ``measure_lpips``.
        read_images: the images of some indices, asked for what is missing only.
        num_images: how many.
        folder: of this model, source and grid alone.
        batch_size: images per pass.

    Raises:
        FloatingPointError: a distance is not finite; earlier batches are kept.
        OSError: the disk is full.
    """
    per_image = len(grid) - 1
    known = read_parts(folder, per_image)
    if _list_missing(known, num_images):
        folder.mkdir(parents=True, exist_ok=True)
        with hold_alone(FileLock(folder / "profile.lock"), f"measuring LPIPS curves into {folder}"):
            known = read_parts(folder, per_image)  # another process may have measured meanwhile
            missing = _list_missing(known, num_images)
            total, initial = num_images * per_image, (num_images - len(missing)) * per_image
            with tqdm(total=total, initial=initial, desc="LPIPS curves", unit="pass", disable=not missing) as bar:
                for indices in _split(missing, batch_size):
                    x_0 = read_images(indices).to(alphas_cumprod.device)
                    part = measure_lpips(model, x_0, grid, alphas_cumprod, lpips, bar.update)
                    _check_finite(part, indices)
                    write_part(folder, indices, part)
                    known |= dict(zip(indices, torch.stack(part[1:], dim=1), strict=True))
    pred_x0, x_t = torch.stack([known[index] for index in range(num_images)]).unbind(dim=1)
    return LPIPSProfile(tuple(grid[:-1]), pred_x0, x_t)


def _list_missing(known: Container[int], num_images: int) -> list[int]:
    return [index for index in range(num_images) if index not in known]


def _split(indices: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    for _, batch in groupby(indices, key=lambda index: index // batch_size):
        yield list(batch)


def _check_finite(part: LPIPSProfile, indices: Sequence[int]) -> None:
    finite = torch.stack(part[1:], dim=1).isfinite().flatten(1).all(dim=1).tolist()
    if bad := [index for index, fine in zip(indices, finite, strict=True) if not fine]:
        raise FloatingPointError(
            f"LPIPS along the inversion is not finite for image {', '.join(map(str, bad))} (counted from 0): the "
            "network's weights or these images are damaged"
        )


def write_part(folder: Path, indices: Sequence[int], part: LPIPSProfile) -> None:
    """Keep the distances of some images, all of it or nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"index": torch.tensor(indices), "pred_x0": part.pred_x0, "x_t": part.x_t}
    path = folder / f"images-{indices[0]:06d}-{indices[-1]:06d}.safetensors"
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def read_parts(folder: Path, num_timesteps: int) -> dict[int, Tensor]:
    """The distances kept in a folder: index of the image -> (2, T), of P_t and of x_t; damaged files are left out."""
    known: dict[int, Tensor] = {}
    for path in sorted(folder.glob("images-*.safetensors")):
        try:
            known |= _read_part(path, num_timesteps)
        except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
            log.warning("%s is damaged (%s) and is measured again", path, error)
    return known


def _read_part(path: Path, num_timesteps: int) -> dict[int, Tensor]:
    part = load_file(path)
    distances = torch.stack([part["pred_x0"], part["x_t"]], dim=1)
    if distances.shape != (len(part["index"]), 2, num_timesteps):
        raise ValueError(f"distances of shape {tuple(distances.shape)}")
    return dict(zip(part["index"].tolist(), distances, strict=True))
