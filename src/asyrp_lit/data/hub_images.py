"""Data sets in the format of the Hugging Face hub, by name or from a local folder; needs the extra ``hf``."""

from pathlib import Path
from typing import Any

from asyrp_lit.data.encoded import EncodedImages
from asyrp_lit.data.split import SeededPart

#: What ``save_to_disk`` leaves in the folder of a data set, and of several splits.
_SAVED = ("state.json", "dataset_dict.json")


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            "data=hf needs the package datasets, which is not installed: pip install 'asyrp_lit[hf]'"
        ) from error
    return datasets


def load_rows(path: str, rows: str, subset: str | None = None, revision: str | None = None) -> Any:
    """The rows of a split, as a ``datasets.Dataset``.

    Args:
        path: a folder that ``save_to_disk`` wrote, any folder that ``load_dataset`` takes, or a name on the hub.
        rows: name of the split, with a slice if wanted, such as ``train[:1000]``; saved folders know no slices.
        subset: name of the data set's configuration, if it has several.
        revision: commit or tag on the hub; ``None`` for the newest.

    Raises:
        ValueError: the package is missing, or no such data set, subset or split can be loaded.
    """
    datasets = _import_datasets()
    folder = Path(path).expanduser()
    try:
        if not any((folder / name).is_file() for name in _SAVED):
            source = str(folder) if folder.exists() else path
            return datasets.load_dataset(source, name=subset, split=rows, revision=revision)
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"data set {path} (split {rows}) cannot be loaded: {' '.join(str(error).split())[:300]}; data.hf.path is a "
            "local folder or a name on the Hugging Face hub, which has to be reached the first time"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if rows not in found:
            raise ValueError(f"data set {path} has the splits {', '.join(found)}, not {rows!r}: see data.train.rows")
        return found[rows]
    return found


class HubImages(EncodedImages):
    """The images of one column of a data set; keys are the split and the number of the row.

    Args:
        path, rows, subset, revision: as for ``load_rows``.
        column: name of the column that has the images.
        size: edge of every image in pixels.
        options: those of ``EncodedImages``.

    Raises:
        ValueError: as in ``load_rows`` and ``EncodedImages``, or the column is not there or has no images.
    """

    kind = "data set"

    def __init__(
        self,
        path: str,
        rows: str,
        column: str,
        size: int,
        subset: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        datasets = _import_datasets()
        table = load_rows(path, rows, subset, revision)
        columns = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        if column not in columns:
            found = f"images are in {', '.join(columns)}" if columns else f"it has {', '.join(table.features)}"
            raise ValueError(f"data set {path} has no column {column!r} of images, {found}: set data.hf.column")
        self._column, self._rows = column, rows
        self._table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        super().__init__(path, size, **options)

    def _list_keys(self, stop: int | None) -> list[str]:
        if not len(self._table):
            raise ValueError(f"data set {self.path} has no rows")
        return [f"{self._rows}-{number:06d}" for number in range(len(self._table))[:stop]]

    def _read(self, key: str) -> bytes:
        image = self._table[int(key.rpartition("-")[2])][self._column]
        if image is None:
            raise ValueError(f"{self._describe(key)} is empty; leave it out with data.on_bad_image=skip")
        content = image["bytes"]
        return Path(image["path"]).read_bytes() if content is None else bytes(content)


def open_hub_split(
    split: str,
    path: str | None,
    rows: str | None,
    other: str | None,
    val_images: int | float,
    split_seed: int,
    **options: Any,
) -> HubImages:
    """The train or val images of a data set: of two of its splits, or of one that is split by a seed.

    Args:
        split: ``train`` or ``val``.
        path: of the data set.
        rows: the data set's split to take; ``None`` for val: a part of train's.
        other: what ``rows`` is for the other split.
        val_images, split_seed: as for ``open_split``.
        options: those of ``HubImages``.

    Raises:
        ValueError: no path is given, or as ``HubImages``.
    """
    if path is None:
        raise ValueError("no data set is given: data=hf needs data.hf.path=NAME or data.hf.path=/path/to/folder")
    train, val = (rows, other) if split == "train" else (other, rows)
    chosen = val if split == "val" and val is not None else train
    if chosen is None:
        raise ValueError("data.train.rows must name a split of the data set, such as train")
    part = SeededPart(split, val_images, split_seed) if val is None else None
    return HubImages(path, chosen, part=part, **options)
