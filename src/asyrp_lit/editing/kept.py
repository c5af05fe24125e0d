"""Images of a long computation on disk: what is there is not computed again.

<folder>/
    NAME-000000-000003.safetensors         the images of these indices, and so on
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from asyrp_lit.files import write_atomically
from asyrp_lit.shapes import Edits

log = logging.getLogger(__name__)


class KeptImages:
    """Images by name and index, float32.

    Args:
        folder: of one computation alone; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> dict[int, Tensor]:
        """The images of a name by index, (C, S, S) each; damaged files are left out with a warning."""
        known: dict[int, Tensor] = {}
        for path in sorted(self.folder.glob(f"{name}-*.safetensors")):
            try:
                part = load_file(path)
                known |= dict(zip(part["index"].tolist(), part["images"], strict=True))
            except (SafetensorError, KeyError, ValueError) as error:
                log.warning("%s is damaged (%s) and is made again", path, error)
        return known

    def write(self, name: str, indices: Sequence[int], images: Edits) -> None:
        """Keep some images, all of them or nothing.

        Raises:
            OSError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}-{indices[0]:06d}-{indices[-1]:06d}.safetensors"
        tensors = {"index": torch.tensor(list(indices)), "images": images.float().cpu().contiguous()}
        write_atomically(path, save(tensors))
