"""The folder of a pipeline: diffusers' own files, ``directions/NAME.safetensors``, and ``pipeline.py``."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from asyrp_lit.files import write_atomically
from asyrp_lit.hspace.direction import save_direction
from asyrp_lit.library.models import ModelDirection
from asyrp_lit.models.fetch import FETCH_ERRORS, fetch_folder

_DIRECTIONS = "directions"
#: Lets ``DiffusionPipeline.from_pretrained(..., custom_pipeline="pipeline")`` find the class.
_CODE = 'from asyrp_lit import AsyrpPipeline\n\n__all__ = ["AsyrpPipeline"]\n'


def check_name(name: str) -> str:
    """A name of a direction that can be that of a file.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(f"the name of a direction must be letters, digits and _ . + -, got {name!r}")
    return name


def find_folder(place: str, revision: str | None, only_local: bool) -> Path:
    """The local folder of a pipeline, fetched from the hub if it is not there; safetensors and settings only.

    Raises:
        FileNotFoundError: it is neither there nor to be had from the hub.
    """
    if Path(place).is_dir():
        return Path(place)
    try:
        return fetch_folder(place, revision or "main", only_local)
    except FETCH_ERRORS as error:
        reason = " ".join(str(error).split())[:160]
        raise FileNotFoundError(
            f"there is no folder {place}, and the Hugging Face hub gives no repository of that name ({reason})"
        ) from error


def list_direction_files(folder: Path) -> dict[str, Path]:
    """Direction files of a pipeline's folder by name."""
    return {path.stem: path for path in sorted((folder / _DIRECTIONS).glob("*.safetensors"))}


def write_folder(folder: Path, directions: Mapping[str, ModelDirection]) -> None:
    """Write what diffusers does not: the directions and ``pipeline.py``.

    Raises:
        FileExistsError: the folder has directions that are not among these, and would be loaded with them.
        OSError: the disk takes no more.
    """
    if others := sorted(set(list_direction_files(folder)) - set(directions)):
        raise FileExistsError(
            f"{folder / _DIRECTIONS} has directions that this pipeline has not ({', '.join(others)}) and that would be "
            "loaded with it: remove them, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in directions.items():
        assert isinstance(found.direction, nn.Module)
        save_direction(folder / _DIRECTIONS / f"{name}.safetensors", found.direction, found.info)
    write_atomically(folder / "pipeline.py", _CODE.encode())
