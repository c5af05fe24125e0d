"""Classes of images from a CSV file."""

import csv
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

_HEADER = ["key", "class"]


def _read_lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        missing = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"the file of classes {path} {missing}; method.csv= names one of lines KEY,CLASS")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error.reason}): save it as CSV in UTF-8") from error
    return [[entry.strip() for entry in line] for line in csv.reader(io.StringIO(text, newline="")) if line]


def read_label_csv(path: Path, keys: Sequence[str], list_others: Callable[[], Iterable[str]]) -> dict[str, str]:
    """Image key -> class, in the order of the file; a first line ``key,class``, in any case, is a header.

    Args:
        path: lines ``KEY,CLASS``.
        keys: of the images in use; the file need not name all of them.
        list_others: keys of images that it may name as well, which are left out; asked for where it names any other.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not in UTF-8, a line has not two entries, or a key is unknown or named twice.
    """
    lines = _read_lines(path)
    classes: dict[str, str] = {}
    for line in lines[1:] if lines and [entry.lower() for entry in lines[0]] == _HEADER else lines:
        if len(line) != 2 or not all(line):
            raise ValueError(f"{path} must have lines KEY,CLASS, got {','.join(line)!r}")
        key, value = line
        if key in classes:
            raise ValueError(f"{path} names {key!r} twice")
        classes[key] = value
    known = set(keys)
    left_out = [key for key in classes if key not in known]
    others = set(list_others()) if left_out else set()
    for key in left_out:
        if key not in others:
            raise ValueError(f"{path} names {key!r}, which is none of the images, such as {keys[0]!r}")
        del classes[key]
    if left_out:
        log.info("%s: %d images that it names are not among the train images and left out", path, len(left_out))
    return classes
