"""What the name of a released f_t file tells: attribute, image domain, number of steps."""

import re
from typing import NamedTuple


class Category(NamedTuple):
    """An image domain of the released files.

    Attributes:
        curves: name of its published LPIPS curves.
        base_model: name in ``conf/model`` of the network that its directions were trained on.
    """

    curves: str
    base_model: str


#: Category in a file name -> what belongs to it.
CATEGORIES = {
    "CelebA_HQ": Category("celeba", "ddpmpp_celeba"),
    "bedroom": Category("bedroom", "ddpmpp_bedroom"),
    "church_outdoor": Category("church", "ddpmpp_church"),
    "dog": Category("afhq", "iddpm_afhq"),
    "metfaces": Category("metface", "adm_p2_metfaces"),
}
#: Released under a name of their own, with the texts of another attribute: trained from random noise, or once more.
_VARIANTS = {"random_noise_man": "man", "random_noise_woman": "woman", "zombie_new": "zombie"}
_PATTERN = re.compile(r"(?P<title>.+)_LC_(?P<category>.+)_t\d+_ninv\d+_ngen(?P<num_steps>[1-9]\d*)_\d+\.pth")


class ReleasedName(NamedTuple):
    """Parts of ``{title}_LC_{category}_t999_ninv40_ngen40_0.pth``.

    Attributes:
        title: the attribute as the file calls it.
        attribute: the file of ``conf/attr`` with its texts; ``title`` but for three variants.
        category: as written; known ones are keys of ``CATEGORIES``.
        num_steps: generation steps in training.
    """

    title: str
    attribute: str
    category: str
    num_steps: int


def parse_released_name(name: str) -> ReleasedName | None:
    """The parts of a file name without its folder; ``None`` where it is not named like a released file."""
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    title = match["title"]
    return ReleasedName(title, _VARIANTS.get(title, title), match["category"], int(match["num_steps"]))


def check_base_model(category: str, base_model: str) -> bool:
    """Whether a base model is known to be the one that a category's directions were trained on.

    Returns:
        ``True`` for that model and for categories that are not known, ``False`` where its name does not tell.

    Raises:
        ValueError: it is the base model of another category.
    """
    if category not in CATEGORIES or CATEGORIES[category].base_model == base_model:
        return True
    wanted = CATEGORIES[category].base_model
    if base_model in (other.base_model for other in CATEGORIES.values()):
        raise ValueError(
            f"a direction of category {category} was trained on {wanted} and means nothing on {base_model}: "
            f"import it with model={wanted}"
        )
    return False
