from pathlib import Path

import pytest
from omegaconf import OmegaConf

from asyrp_lit.hspace.published import PUBLISHED_CURVES
from asyrp_lit.hspace.released_names import CATEGORIES, check_base_model, parse_released_name

ATTRIBUTES = Path(__file__).parents[2] / "conf" / "attr"
FACES = (
    *("angry", "curly_hair", "frida", "makeup", "man", "modigliani", "neanderthal", "nicolas", "pixar"),
    *("random_noise_man", "random_noise_woman", "sad", "smiling", "tanned", "woman", "young", "zombie", "zombie_new"),
)
CHURCHES = ("department_store", "factory", "gothic", "red_brick", "temple", "wooden_church")
RELEASED = {
    "CelebA_HQ": FACES,
    "dog": tuple(f"dog_{name}" for name in ("angry", "happy", "sleepy", "wolf", "yorkshire")),
    "metfaces": tuple(f"metface_{name}" for name in ("angry", "disgusted", "sad", "smiling")),
    "bedroom": ("bedroom_hotel", "bedroom_princess"),
    "church_outdoor": tuple(f"church_{name}" for name in CHURCHES),
}
FILES = [(title, category) for category, titles in RELEASED.items() for title in titles]


@pytest.mark.parametrize(("title", "category"), FILES)
def test_a_released_name_leads_to_an_attribute_with_texts_and_to_curves(title, category):
    name = parse_released_name(f"{title}_LC_{category}_t999_ninv40_ngen40_0.pth")
    assert (name.title, name.category, name.num_steps) == (title, category, 40)
    attribute = OmegaConf.load(ATTRIBUTES / f"{name.attribute}.yaml")
    assert attribute.src_text
    assert attribute.trg_text
    assert CATEGORIES[category].curves in PUBLISHED_CURVES


def test_all_35_released_files_are_known():
    assert len(set(FILES)) == 35
    assert set(RELEASED) == set(CATEGORIES)


@pytest.mark.parametrize(
    ("title", "attribute"),
    [("random_noise_man", "man"), ("random_noise_woman", "woman"), ("zombie_new", "zombie"), ("zombie", "zombie")],
)
def test_a_variant_has_the_texts_of_its_attribute(title, attribute):
    assert parse_released_name(f"{title}_LC_CelebA_HQ_t999_ninv40_ngen40_0.pth").attribute == attribute


def test_generation_steps_are_those_of_ngen():
    assert parse_released_name("a_LC_dog_t999_ninv40_ngen1000_3.pth").num_steps == 1000


@pytest.mark.parametrize(
    "name",
    ["smiling.pth", "smiling_LC_CelebA_HQ_t999_ninv40_ngen40_0 (1).pth", "_LC_dog_t999_ninv40_ngen0_0.pth", ""],
)
def test_another_name_tells_nothing(name):
    assert parse_released_name(name) is None


def test_the_base_model_of_another_category_is_refused():
    message = "category dog was trained on iddpm_afhq and means nothing on ddpmpp_celeba: import it with model=iddpm_a"
    with pytest.raises(ValueError, match=message):
        check_base_model("dog", "ddpmpp_celeba")


def test_a_base_model_of_another_name_is_not_known_to_fit():
    assert check_base_model("dog", "iddpm_afhq")
    assert not check_base_model("dog", "my_dogs")
    assert check_base_model("FFHQ", "ddpmpp_celeba")


@pytest.mark.parametrize(("title", "category"), FILES)
def test_the_table_of_the_documentation_has_every_file(title, category):
    name = parse_released_name(f"{title}_LC_{category}_t999_ninv40_ngen40_0.pth")
    row = f"| `{title}` | `{name.attribute}` | {category} | `{CATEGORIES[category].base_model}` |"
    assert row in (ATTRIBUTES.parents[1] / "docs" / "directions.md").read_text()
