"""Any folder of images, or one image file, as an image source."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from natsort import natsorted
from PIL import Image

from asyrp_lit.data.encoded import EncodedImages, printable

_COMMON = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
#: Suffixes, in lower case, that count as images: the common ones of those this Pillow reads.
SUFFIXES = tuple(suffix for suffix in _COMMON if suffix in Image.registered_extensions())


#: What ``edit.py`` writes into the folder of its results before any picture, and a word in it.
RESULTS, _OF_EDIT = "settings.json", '"base_fingerprint"'
#: What it writes beside the pictures of an image, in a folder of its own below ``PICTURES``.
METRICS, PICTURES = "metrics.json", "images"


def _has_results(folder: Path) -> bool:
    about = folder / RESULTS
    try:
        return about.is_file() and _OF_EDIT in about.read_text(errors="replace")
    except OSError:  # a folder that may not be entered is passed over later, as by os.walk
        return False


def _walk_files(folder: Path) -> Iterator[Path]:
    """Files that may be images: none of hidden folders, nor of results of ``edit.py``, which no rerun edits.

    Where the folder itself has results, images that lie beside them are files too.
    """
    seen, mixed = set(), _has_results(folder)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real, here = os.path.realpath(parent), Path(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        of_edit = mixed and here == folder / PICTURES
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not _has_results(here / name)
            and not (of_edit and (here / name / METRICS).is_file())
        )
        grids_too = mixed and here == folder
        yield from (
            here / name for name in files if not name.startswith(".") and not (grids_too and _is_grid(folder, name))
        )


def _is_grid(folder: Path, name: str) -> bool:
    """Whether a file is the grid of a folder's results, or of one of the images there."""
    of_one = re.fullmatch(r"grid-(.+)\.png", name)
    return name == "grid.png" or (of_one is not None and (folder / PICTURES / of_one[1] / METRICS).is_file())


def list_images(folder: str | Path) -> list[Path]:
    """Image files below a folder in natural order (``2.png`` before ``10.png``).

    Hidden files and folders are ignored, and so are folders below that have the results of ``edit.py``.

    Args:
        folder: searched at any depth through links; a file gives itself, whatever its suffix.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder {folder} does not exist; give the path of a folder or of one image")
    images = [path for path in _walk_files(folder) if path.suffix.lower() in SUFFIXES]
    # Natural order takes 1.png and 01.png for equal: the plain one then decides, not the file system.
    return list(natsorted(sorted(images), key=lambda path: path.relative_to(folder).as_posix()))


class ImageFolder(EncodedImages):
    """The images of a folder at any depth, or one image file; keys are relative paths, in natural order.

    Arguments and errors are those of ``EncodedImages``.
    """

    kind = "folder"

    @property
    def _base(self) -> Path:
        return self.path.parent if self.path.is_file() else self.path

    def _list_keys(self, stop: int | None) -> list[str]:
        if paths := list_images(self.path):
            return [path.relative_to(self._base).as_posix() for path in paths[:stop]]
        accepted = f"accepted are files {' '.join(SUFFIXES)}, or an LMDB (data.mdb); results of edit.py are left out"
        raise ValueError(f"folder {self.path} has no images; {accepted}")

    def _list_files(self) -> Iterator[Path]:
        return (self._base / key for key in self.keys)

    def _read(self, key: str) -> bytes:
        return (self._base / key).read_bytes()

    def _describe(self, key: str) -> str:
        return printable(str(self._base / key))
