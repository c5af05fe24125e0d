"""Which images stand for the two classes of ``method=labels``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, check_label
from asyrp_lit.data.encoded import EncodedImages
from asyrp_lit.data.label_csv import read_label_csv
from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.data.subset import ImageSubset
from asyrp_lit.inversion.fill import LatentSource


class Classes(NamedTuple):
    """Images of two classes.

    Attributes:
        indices: their places in the source, those of the positive class first.
        positive: whether each is of the positive class.
        names: of the positive and the negative class.
    """

    indices: list[int]
    positive: list[bool]
    names: tuple[str, str]


def name_class(value: object) -> str:
    """A class of the settings or of a file as text: YAML reads 0 as a number, true and false as truth values."""
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text


def list_known(sources: Mapping[str, LatentSource]) -> Iterator[str]:
    """Keys of all images there are, whatever is left out of either split."""
    for source in sources.values():
        whole = source.source if isinstance(source, ImageSubset) else source
        yield from whole.list_all_keys() if isinstance(whole, EncodedImages) else whole.keys


def read_classes(cfg: DictConfig, sources: Mapping[str, LatentSource]) -> dict[int, str]:
    """Place in the train images -> class, where an image has one.

    Raises:
        FileNotFoundError, ValueError: the file of classes is missing or wrong, or there are no labels.
    """
    method, source = cfg.method, sources["train"]
    if method.csv is not None:
        places = {key: index for index, key in enumerate(source.keys)}
        classes = read_label_csv(Path(str(method.csv)).expanduser(), source.keys, lambda: list_known(sources))
        return {places[key]: name_class(value) for key, value in classes.items()}
    if not isinstance(source, PortraitSource):
        raise ValueError(
            f"the images of {source.name} have no labels: name a file of lines KEY,CLASS with method.csv=FILE"
        )
    for value in (method.positive, method.negative):
        if value is not None:
            check_label(method.label, name_class(value))
    column = source.labels[:, list(LABELS).index(method.label)].tolist()
    return {index: LABELS[method.label][value] for index, value in enumerate(column) if value != UNDEFINED}


def choose_classes(cfg: DictConfig, sources: Mapping[str, LatentSource]) -> Classes:
    """The first train images of each class, at most half of ``method.num_images`` of each.

    Raises:
        ValueError: a class has fewer than two images, or both are one.
    """
    method = cfg.method
    classes = read_classes(cfg, sources)
    is_any = method.negative is None
    names = (name_class(method.positive), "other" if is_any else name_class(method.negative))
    if names[0] == names[1]:
        raise ValueError(f"method.positive and method.negative must be two classes, both are {names[0]!r}")
    positive = [index for index, value in classes.items() if value == names[0]]
    others = [index for index, value in classes.items() if value != names[0] and (is_any or value == names[1])]
    for name, indices in zip(names, (positive, others), strict=True):
        if len(indices) < 2:
            there = ", ".join(sorted(set(classes.values()))) or "none"
            raise ValueError(
                f"{method.label} needs two images or more of each class, but {len(indices)} of {name!r} (classes "
                f"there are: {there}): take more images (data.train.num_images) or another class"
            )
    most = max(2, method.num_images // 2)
    positive, others = positive[:most], others[:most]
    return Classes([*positive, *others], [True] * len(positive) + [False] * len(others), names)
