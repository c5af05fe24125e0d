"""Captions claim only what is true of the portrait."""

import random

import pytest

from asyrp_lit.data.avatars import captions
from asyrp_lit.data.avatars.captions import class_prompts, write_caption
from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, sample_traits
from asyrp_lit.losses.clip import build_avatars_clip


def meanings(label: str, words: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, str]]:
    return {synonym: (label, name) for name, synonyms in words.items() for synonym in synonyms}


SUBJECT_WORDS = meanings("expression", captions.EXPRESSIONS)
PHRASES = {
    **meanings("skin", captions.SKIN),
    **meanings("beard", captions.BEARD),
    **meanings("glasses", captions.GLASSES),
    "bald head": ("hair_length", "bald"),
    "no hair": ("hair_length", "bald"),
}
HAIR_WORDS = {
    **meanings("hair_color", captions.HAIR_COLORS),
    "short": ("hair_length", "short"),
    "long": ("hair_length", "long"),
}


def read_caption(text: str) -> dict[str, str]:
    """Label name -> class, read back from a caption's words alone."""
    subject, _, features = text.partition(" with ")
    read = [SUBJECT_WORDS[word] for word in subject.split() if word in SUBJECT_WORDS]
    for feature in features.replace(" and ", ", ").split(", "):
        words = [] if feature in PHRASES else feature.split()
        read += [PHRASES[feature]] if feature in PHRASES else []
        read += [HAIR_WORDS[word] for word in words if word in HAIR_WORDS]
    return dict(read)


@pytest.fixture(scope="module")
def tokenizer():
    return build_avatars_clip()[1]


def test_captions_are_true_and_claim_what_they_say():
    rng = random.Random(0)
    for index in range(500):
        traits = sample_traits("train", index)
        caption = write_caption(traits, rng)
        claimed = {name: LABELS[name][k] for name, k in zip(LABELS, caption.claims, strict=True) if k != UNDEFINED}
        assert read_caption(caption.text) == claimed, caption.text
        assert claimed.items() <= traits.to_dict().items()


def test_a_caption_always_says_something():
    rng = random.Random(0)
    assert all(write_caption(sample_traits("val", k), rng, keep=0.0).claims != (UNDEFINED,) * 6 for k in range(100))


def test_there_is_one_prompt_per_class_and_it_is_read_as_that_class():
    for name, prompts in class_prompts().items():
        assert [read_caption(prompt) for prompt in prompts] == [{name: value} for value in LABELS[name]]


def test_every_prompt_and_caption_survives_the_tokenizer(tokenizer):
    rng = random.Random(1)
    texts = [prompt for prompts in class_prompts().values() for prompt in prompts]
    texts += [write_caption(sample_traits("test", index), rng, keep=1.0).text for index in range(100)]
    for text in texts:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens).strip().replace(" ,", ",") == text
        assert len(tokens) + 2 <= tokenizer.context_length
