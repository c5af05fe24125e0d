"""Caption grammar of the portraits: sentences that are true of a portrait, and which labels each one mentions."""

import random
from collections.abc import Collection
from typing import NamedTuple

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, Traits

SUBJECTS = ("person", "face", "head", "portrait", "cartoon", "cartoon character", "avatar", "human")
EXPRESSIONS = {
    "smiling": ("smiling", "happy"),
    "sad": ("sad", "unhappy"),
    "surprised": ("surprised", "shocked"),
    "serious": ("serious", "neutral"),
}
HAIR_COLORS = {
    "black": ("black",),
    "brown": ("brown",),
    "blond": ("blond", "blonde", "yellow"),
    "red": ("red", "orange"),
    "grey": ("grey", "gray", "white"),
}
SKIN = {
    "dark": ("dark skin",),
    "brown": ("brown skin",),
    "tanned": ("tanned skin",),
    "light": ("light skin",),
    "pale": ("pale skin",),
}
BEARD = {"yes": ("a beard", "beard", "facial hair"), "no": ("no beard", "a shaved face")}
GLASSES = {
    "glasses": ("glasses", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark glasses"),
    "no": ("no glasses",),
}


class Caption(NamedTuple):
    """A text and the label classes it claims; ``claims[k]`` is -1 where label k is not mentioned."""

    text: str
    claims: tuple[int, ...]


def _hair_phrase(traits: Traits, mention: set[str], rng: random.Random) -> str:
    length = traits.hair_length if "hair_length" in mention else ""
    if length == "bald":
        return rng.choice(("bald head", "no hair"))
    color = rng.choice(HAIR_COLORS[traits.hair_color]) if "hair_color" in mention else ""
    return " ".join(word for word in (length, color, "hair") if word) if length or color else ""


def write_caption(traits: Traits, rng: random.Random, keep: float = 0.45) -> Caption:
    """A random true sentence about a portrait, such as "smiling person with short red hair and glasses".

    Args:
        traits: the portrait.
        rng: decides which labels are mentioned and with which words.
        keep: probability that a label is mentioned.
    """
    mention = {name for name in LABELS if rng.random() < keep}
    if traits.hair_length == "bald":
        mention.discard("hair_color")
    if not mention:
        mention = {rng.choice(("expression", "hair_length", "beard", "glasses", "skin"))}
    features = [_hair_phrase(traits, mention, rng)]
    features += [rng.choice(SKIN[traits.skin])] if "skin" in mention else []
    features += [rng.choice(BEARD[traits.beard])] if "beard" in mention else []
    features += [rng.choice(GLASSES[traits.glasses])] if "glasses" in mention else []
    features = [feature for feature in features if feature]
    rng.shuffle(features)
    subject = rng.choice(SUBJECTS)
    if "expression" in mention:
        subject = f"{rng.choice(EXPRESSIONS[traits.expression])} {subject}"
    text = subject
    if features:
        text = f"{subject} with {', '.join(features[:-1])}{' and ' if len(features) > 1 else ''}{features[-1]}"
    return Caption(text, claim_labels(traits, mention))


def claim_labels(traits: Traits, mention: set[str]) -> tuple[int, ...]:
    """Class indices of the mentioned labels in the order of ``LABELS``, -1 elsewhere.

    "glasses" and "sunglasses" are told apart, so that each is a claim of its own.
    """
    indices = traits.class_indices()
    return tuple(indices[name] if name in mention else UNDEFINED for name in LABELS)


def class_prompts() -> dict[str, tuple[str, ...]]:
    """Label name -> one zero-shot prompt per class, in the order of ``LABELS``."""
    return {
        "expression": tuple(f"{EXPRESSIONS[c][0]} face" for c in LABELS["expression"]),
        "hair_length": ("person with short hair", "person with long hair", "person with bald head"),
        "hair_color": tuple(f"person with {HAIR_COLORS[c][0]} hair" for c in LABELS["hair_color"]),
        "skin": tuple(f"person with {SKIN[c][0]}" for c in LABELS["skin"]),
        "beard": ("person with no beard", "person with a beard"),
        "glasses": ("person with no glasses", "person with glasses", "person with sunglasses"),
    }


def other_prompts(labels: Collection[str]) -> list[tuple[str, ...]]:
    """Zero-shot prompts, one group per label, of all labels but those named."""
    return [prompts for name, prompts in class_prompts().items() if name not in labels]
