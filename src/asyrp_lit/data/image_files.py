"""Image files that are named one by one, as an image source."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyrp_lit.data.encoded import EncodedImages, printable


class ImageFiles(EncodedImages):
    """Several image files in the order in which they are named; keys are paths below the folder that they share.

    Args:
        files: their paths.
        size: edge of every image in pixels.
        options: those of ``EncodedImages``, which see for the other errors too.

    Raises:
        FileNotFoundError: one is no file.
        ValueError: one is named twice.
    """

    kind = "folder"

    def __init__(self, files: Sequence[str | Path], size: int, **options: Any) -> None:
        self._files = [Path(os.path.abspath(Path(file).expanduser())) for file in files]
        for path in self._files:
            if not path.is_file():
                raise FileNotFoundError(f"there is no image file {path}; a folder is given alone, not in a list")
        if len(set(self._files)) < len(self._files):
            raise ValueError(f"an image file is named twice among {', '.join(map(str, self._files))}")
        super().__init__(os.path.commonpath([path.parent for path in self._files]), size, **options)

    def _list_keys(self, stop: int | None) -> list[str]:
        return [path.relative_to(self.path).as_posix() for path in self._files[:stop]]

    def _read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def _describe(self, key: str) -> str:
        return printable(str(self.path / key))
