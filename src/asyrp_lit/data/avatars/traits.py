"""Traits of a cartoon portrait: what is drawn, which labels it carries, how an index becomes a portrait.

Every portrait is a pure function of ``(split, index)``: only ``random.Random.random`` is used, whose stream Python
guarantees, so the data set is the same on every machine and needs no files.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from asyrp_lit.data.avatars.colors import draw_background, draw_clothes_color

T = TypeVar("T")

#: Label name -> class names, in the order of the class index.
LABELS: dict[str, tuple[str, ...]] = {
    "expression": ("smiling", "sad", "surprised", "serious"),
    "hair_length": ("short", "long", "bald"),
    "hair_color": ("black", "brown", "blond", "red", "grey"),
    "skin": ("dark", "brown", "tanned", "light", "pale"),
    "beard": ("no", "yes"),
    "glasses": ("no", "glasses", "sunglasses"),
}
#: Class index of a label that does not apply (the hair colour of a bald head).
UNDEFINED = -1

MOUTHS = {
    "smiling": ("smile", "twinkle", "default"),
    "sad": ("sad", "concerned", "grimace"),
    "surprised": ("disbelief", "screamOpen"),
    "serious": ("serious",),
}
EYEBROWS = {
    "smiling": ("default", "defaultNatural", "raisedExcitedNatural"),
    "sad": ("sadConcerned", "sadConcernedNatural"),
    "surprised": ("raisedExcited", "raisedExcitedNatural"),
    "serious": ("flatNatural", "default", "defaultNatural"),
}
EYES = ("default", "happy", "side", "squint", "surprised", "wink", "closed")
TOPS = {
    "short": (
        "shortFlat",
        "shortRound",
        "shortWaved",
        "shortCurly",
        "theCaesar",
        "theCaesarAndSidePart",
        "shaggy",
        "dreads01",
    ),
    "long": (
        "bigHair",
        "bob",
        "bun",
        "curly",
        "curvy",
        "longButNotTooLong",
        "miaWallace",
        "shaggyMullet",
        "straight01",
        "straight02",
        "straightAndStrand",
    ),
}
BEARDS = ("beardLight", "beardMedium", "beardMajestic")
ACCESSORIES = {
    "glasses": ("prescription01", "prescription02", "round"),
    "sunglasses": ("sunglasses", "wayfarers", "kurt"),
}
CLOTHES = ("blazerAndShirt", "collarAndSweater", "hoodie", "shirtCrewNeck", "shirtScoopNeck", "shirtVNeck")

_EXPRESSION_WEIGHTS = {"smiling": 0.35, "sad": 0.25, "surprised": 0.15, "serious": 0.25}
_HAIR_LENGTH_WEIGHTS = {"short": 0.45, "long": 0.45, "bald": 0.10}
_BEARD_PROBABILITY = 0.25
_GLASSES_WEIGHTS = {"no": 0.75, "glasses": 0.25 * 2 / 3, "sunglasses": 0.25 / 3}


@dataclass(frozen=True)
class Traits:
    """Everything that decides one portrait: the six labels and the choice of drawing behind each.

    The ``*_draw`` fields are numbers in [0, 1) that pick among the drawings of a class, so that changing one label
    keeps every other stroke of the portrait: ``with_labels`` gives a true pair.
    """

    expression: str
    hair_length: str
    hair_color: str
    skin: str
    beard: str
    glasses: str
    eyes: str
    clothes: str
    clothes_color: str
    background: str
    mouth_draw: float
    eyebrows_draw: float
    top_draw: float
    beard_draw: float
    glasses_draw: float
    skin_draw: float
    hair_draw: float

    def with_labels(self, labels: Mapping[str, str]) -> "Traits":
        """The same portrait with some labels changed and nothing else.

        Args:
            labels: label name -> class name, keys and values as in ``LABELS``.

        Raises:
            ValueError: a label or class does not exist.
        """
        for name, value in labels.items():
            check_label(name, value)
        return replace(self, **labels)  # type: ignore[arg-type]

    def class_indices(self) -> dict[str, int]:
        """Label name -> class index in ``LABELS``; the hair colour of a bald head is ``UNDEFINED``."""
        indices = {name: classes.index(getattr(self, name)) for name, classes in LABELS.items()}
        if self.hair_length == "bald":
            indices["hair_color"] = UNDEFINED
        return indices

    def to_dict(self) -> dict[str, str | float]:
        """Plain values, for JSON."""
        return asdict(self)


def check_label(name: str, value: str) -> None:
    """Raise ``ValueError`` unless ``value`` is a class of the label ``name``."""
    if name not in LABELS:
        raise ValueError(f"label {name!r} does not exist; choose from {', '.join(LABELS)}")
    if value not in LABELS[name]:
        raise ValueError(f"label {name!r} has no class {value!r}; choose from {', '.join(LABELS[name])}")


def pick(options: Sequence[T], draw: float) -> T:
    """The element of ``options`` that a number in [0, 1) points at."""
    return options[int(draw * len(options))]


def pick_weighted(weights: Mapping[str, float], draw: float) -> str:
    """The key of ``weights`` (summing to 1) that a number in [0, 1) points at."""
    for key, weight in weights.items():
        draw -= weight
        if draw < 0:
            return key
    return next(reversed(list(weights)))


def sample_traits(split: str, index: int) -> Traits:
    """Traits of portrait ``index`` of a split; equal arguments give equal traits on every machine.

    Args:
        split: any name; ``train``, ``val`` and ``test`` are the data set's own.
        index: 0 or more; there is no upper end.
    """
    draw = random.Random(f"asyrp_lit-avatars-{split}-{index}").random
    return Traits(
        expression=pick_weighted(_EXPRESSION_WEIGHTS, draw()),
        hair_length=pick_weighted(_HAIR_LENGTH_WEIGHTS, draw()),
        hair_color=pick(LABELS["hair_color"], draw()),
        skin=pick(LABELS["skin"], draw()),
        beard="yes" if draw() < _BEARD_PROBABILITY else "no",
        glasses=pick_weighted(_GLASSES_WEIGHTS, draw()),
        eyes=pick(EYES, draw()),
        clothes=pick(CLOTHES, draw()),
        clothes_color=draw_clothes_color((draw(), draw(), draw())),
        background=draw_background((draw(), draw(), draw())),
        mouth_draw=draw(),
        eyebrows_draw=draw(),
        top_draw=draw(),
        beard_draw=draw(),
        glasses_draw=draw(),
        skin_draw=draw(),
        hair_draw=draw(),
    )


def matches(traits: Traits, condition: Mapping[str, str | Sequence[str]]) -> bool:
    """Whether the labels of ``traits`` meet every entry of ``condition`` (a class name or several)."""
    for name, allowed in condition.items():
        values = (allowed,) if isinstance(allowed, str) else tuple(allowed)
        for value in values:
            check_label(name, value)
        if getattr(traits, name) not in values:
            return False
    return True
