"""Attributes: what a file of conf/attr means on a domain."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from asyrp_lit.data.avatars.traits import LABELS
from asyrp_lit.data.portraits import read_condition
from asyrp_lit.hspace.attribute import Attribute, resolve_attribute
from asyrp_lit.losses.clip import build_avatars_clip

FILES = sorted(Path(__file__).parents[2].glob("conf/attr/*.yaml"))
SMILING = {
    "name": "smiling",
    "src_text": "face",
    "trg_text": "smiling face",
    "avatars": {"src_text": "serious face", "labels": {"expression": "smiling"}, "where": {"beard": ["no"]}},
}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


AVATARS = [path for path in FILES if read(path)["avatars"]]


def test_avatars_take_the_override_and_other_domains_the_papers_texts():
    assert resolve_attribute(SMILING, "faces") == Attribute("smiling", "face", "smiling face")
    assert resolve_attribute(SMILING, "avatars") == Attribute(
        "smiling", "serious face", "smiling face", {"expression": ("smiling",)}, {"beard": ("no",)}
    )


def test_a_hydra_config_resolves_to_plain_values():
    attribute = resolve_attribute(OmegaConf.create(SMILING), "avatars")
    assert attribute == resolve_attribute(SMILING, "avatars")
    assert type(attribute.where) is dict


def test_prompts_to_keep_are_read_in_groups():
    change = OmegaConf.create({**SMILING, "keep": [["man", "woman"], ["red hair", "black hair", "bald head"]]})
    assert resolve_attribute(change, "faces").keep == (("man", "woman"), ("red hair", "black hair", "bald head"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src_txt": "face"}, "attr has no key 'src_txt'; known keys: name"),
        ({"avatars": {"text": "x"}}, "attr.avatars has no key 'text'"),
        ({"avatars": "x"}, "attr.avatars must be null or a block"),
        ({"trg_text": None}, "attr.trg_text must be a text, not None"),
        ({"where": {"beard": False}}, "attr.where.beard must be .* quotes around no"),
        ({"labels": {"beard": []}}, "attr.labels.beard must be a class name"),
        ({"labels": "smiling"}, "attr.labels must be null or map labels"),
        ({"keep": "man, woman"}, "attr.keep must be null or groups of two or more prompts"),
        ({"keep": []}, "attr.keep must be null or groups"),
        ({"keep": [["man"]]}, "attr.keep must be null or groups"),
        ({"keep": ["man", "woman"]}, "attr.keep must be null or groups"),
    ],
)
def test_a_wrong_entry_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        resolve_attribute({**SMILING, **change}, "faces")


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "custom"], ids=lambda path: path.stem)
def test_every_file_resolves_on_every_domain_under_its_own_name(path):
    for domain in ("avatars", "faces"):
        attribute = resolve_attribute(read(path), domain)
        assert attribute.name == path.stem
        assert attribute.src_text != attribute.trg_text
    assert (attribute.labels, attribute.where) == (None, None)


@pytest.mark.parametrize("path", AVATARS, ids=lambda path: path.stem)
def test_avatar_attributes_start_from_portraits_that_lack_them(path):
    attribute = resolve_attribute(read(path), "avatars")
    read_condition(attribute.where)
    read_condition(attribute.labels)
    for name, classes in attribute.labels.items():
        assert set(classes).isdisjoint(attribute.where.get(name, LABELS[name]))


def test_the_small_clip_knows_the_words_of_every_avatar_attribute():
    tokenizer = build_avatars_clip()[1]
    for path in AVATARS:
        attribute = resolve_attribute(read(path), "avatars")
        for word in f"{attribute.src_text} {attribute.trg_text}".split():
            assert len(tokenizer.encode(word)) <= 2, f"{path.stem}: {word}"
