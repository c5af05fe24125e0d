"""Tiny data sets in the formats in which people have them."""

from io import BytesIO
from pathlib import Path

import lmdb
import pytest
from PIL import Image


def encode(value: int, kind: str = "webp", size: int = 16) -> bytes:
    file = BytesIO()
    Image.new("RGB", (size, size + 4), (value, value, value)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def picture():
    """``picture(VALUE, KIND, SIZE)``: the bytes of one grey image."""
    return encode


@pytest.fixture
def save_pictures():
    """``save_pictures(FOLDER, NAMES)``: files of these names, each grey of its number in the list."""

    def save(folder: Path, names: list[str]) -> Path:
        for value, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(value, "png"))
        return folder

    return save


@pytest.fixture
def write_lmdb():
    """``write_lmdb(FOLDER, ENTRIES)``: an LMDB that is closed again."""

    def write(folder: Path, entries: dict[bytes, bytes]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        environment = lmdb.open(str(folder), map_size=1 << 24)
        with environment.begin(write=True) as transaction:
            for key, value in entries.items():
                transaction.put(key, value)
        environment.close()
        return folder

    return write


@pytest.fixture
def lsun(tmp_path, write_lmdb):
    """Five webp blobs under hexadecimal keys, put in another order than theirs."""
    keys = [b"%040x" % number for number in (9, 2, 7, 4, 1)]
    return write_lmdb(tmp_path / "church_outdoor_train_lmdb", {key: encode(int(key, 16)) for key in keys})


@pytest.fixture
def stylemapgan(tmp_path, write_lmdb):
    """Eleven jpegs of 16 and 32 px, numbered, and their count."""
    entries = {b"length": b"11"}
    for number in range(11):
        entries |= {f"{size}-{number:05d}".encode(): encode(number, "jpeg", size) for size in (16, 32)}
    return write_lmdb(tmp_path / "LMDB_train", entries)
