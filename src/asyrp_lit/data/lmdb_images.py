"""LMDBs of encoded images in the two layouts that people have: LSUN's, and that of StyleMapGAN's prepare script."""

from itertools import islice
from pathlib import Path
from typing import Any

import lmdb

from asyrp_lit.data.decode import looks_like_image
from asyrp_lit.data.encoded import EncodedImages, printable
from asyrp_lit.data.lmdb_reader import FILE, read_lmdb

#: Key that holds the number of images in StyleMapGAN's layout.
_LENGTH = b"length"
#: Values that are looked at, at either end, to tell LSUN's layout: some may be broken images.
_LOOKED_AT = 8
_EXPECTED = (
    "expected are encoded images under any keys (LSUN as distributed), or under keys such as 256-00000 beside length "
    "(as StyleMapGAN's script prepares CelebA-HQ)"
)


class ImageLMDB(EncodedImages):
    """The images of an LMDB, opened where and when one is read.

    In LSUN's layout every entry is an image, in the order of the LMDB; in StyleMapGAN's, images 0 to ``length`` - 1 are
    there in several resolutions, of which one is taken. Listing reads no image.

    Args:
        path: the folder of ``data.mdb``, or that file.
        size: edge of every image in pixels.
        resolution: which one to take in StyleMapGAN's layout; ``None`` for ``size``.
        options: those of ``EncodedImages``.

    Raises:
        FileNotFoundError: there is no ``data.mdb``.
        ValueError: it is not an LMDB, of another layout, has no such resolution, or as in ``EncodedImages``.
    """

    kind = "LMDB"

    def __init__(self, path: str | Path, size: int, resolution: int | None = None, **options: Any) -> None:
        self.resolution = resolution or size
        folder = Path(path).parent if Path(path).name == FILE else path
        super().__init__(folder, size, **options)

    def _list_keys(self, stop: int | None) -> list[str]:
        with read_lmdb(self.path) as transaction:
            length = transaction.get(_LENGTH)
            if length is not None:
                return self._number_keys(transaction, bytes(length))[:stop]
            for end, step in (("first", lmdb.Cursor.iternext), ("last", lmdb.Cursor.iterprev)):
                values = islice(step(transaction.cursor(), keys=False, values=True), _LOOKED_AT)
                if not any(looks_like_image(bytes(value)) for value in values):
                    raise self._refuse(transaction, f"the {end} values are no images")
            cursor = transaction.cursor()
            cursor.first()
            return [_to_text(bytes(key)) for key in islice(cursor.iternext(True, False), stop)]

    def _number_keys(self, transaction: lmdb.Transaction, length: bytes) -> list[str]:
        """The keys of StyleMapGAN's layout at the chosen resolution."""
        if not length.isdigit() or int(length) == 0:
            raise self._refuse(transaction, f"length holds {length[:20]!r}, which is not the number of images")
        found = _find_resolutions(transaction)
        if not found:
            raise self._refuse(transaction, "beside length there is no key such as 256-00000")
        if self.resolution not in found:
            raise ValueError(
                f"LMDB {self.path} has images of {', '.join(map(str, found))} px, none of {self.resolution} px: take "
                f"data.resolution={found[-1]}, which are then resized"
            )
        return [f"{self.resolution}-{index:05d}" for index in range(int(length))]

    def _refuse(self, transaction: lmdb.Transaction, reason: str) -> ValueError:
        entries = transaction.stat()["entries"]
        keys = [printable(_to_text(bytes(key))) for key in islice(transaction.cursor().iternext(True, False), 3)]
        return ValueError(
            f"LMDB {self.path} is of another layout: {reason}; it has {entries} entries"
            f"{', the first keys are ' if keys else ''}{', '.join(keys)}; {_EXPECTED}"
        )

    def _list_files(self) -> list[Path]:
        return [self.path / FILE]

    def _read(self, key: str) -> bytes:
        with read_lmdb(self.path) as transaction:
            content = transaction.get(key.encode(errors="surrogateescape"))
        if content is None:
            raise ValueError(
                f"LMDB {self.path} has no key {key}, although its length says so; prepare it again, or leave such "
                "images out with data.on_bad_image=skip"
            )
        return bytes(content)


def _to_text(key: bytes) -> str:
    """A key as text, undone by encoding it with ``surrogateescape``."""
    return key.decode(errors="surrogateescape")


def _find_resolutions(transaction: lmdb.Transaction) -> list[int]:
    """Resolutions of StyleMapGAN's layout, ascending; looks at one key each."""
    cursor, found = transaction.cursor(), set()
    there = cursor.first()
    while there:
        prefix, dash, number = bytes(cursor.key()).partition(b"-")
        is_image = bool(dash) and prefix.isdigit() and number.isdigit()
        if is_image:
            found.add(int(prefix))
        # "." follows "-": all other images of this resolution are passed over.
        there = cursor.set_range(prefix + b".") if is_image else cursor.next()
    return sorted(found)
