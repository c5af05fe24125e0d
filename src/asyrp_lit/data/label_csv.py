"""Classes of images from a CSV file."""

import csv
from collections.abc import Sequence
from pathlib import Path

_HEADER = ["key", "class"]


def read_label_csv(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Image key -> class, in the order of the file; a first line ``key,class`` is a header.

    Args:
        path: lines ``KEY,CLASS``.
        keys: of the images there are; the file need not name all of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has not two entries, or a key is unknown or named twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the file of classes {path} does not exist; method.csv= names lines KEY,CLASS")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = [[entry.strip() for entry in line] for line in csv.reader(file) if line]
    known, classes = set(keys), {}
    for line in lines[1:] if lines and lines[0] == _HEADER else lines:
        if len(line) != 2 or not all(line):
            raise ValueError(f"{path} must have lines KEY,CLASS, got {','.join(line)!r}")
        key, value = line
        if key not in known:
            raise ValueError(
                f"{path} names {key!r}, which is none of the {len(keys)} train images, such as {keys[0]!r}"
            )
        if key in classes:
            raise ValueError(f"{path} names {key!r} twice")
        classes[key] = value
    return classes
