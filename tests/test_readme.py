import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_a_link_of_the_readme_leads_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"python ([\w/]+\.py)", README))))
def test_a_script_of_the_readme_is_there(script):
    assert (ROOT / script).is_file()


@pytest.mark.parametrize(
    ("group", "choice"), re.findall(r"\b(model|attr|data|interval|method|clip|trainer)=(\w+)", README)
)
def test_a_choice_of_the_readme_is_there(group, choice):
    assert (ROOT / "conf" / group / f"{choice}.yaml").is_file()


def test_the_readme_is_short_enough_to_read():
    assert len(README.splitlines()) < 250


def test_every_pin_is_a_plain_version():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.\-]+==[\w.+]+", pin) for pin in pins)
    wanted = {re.split(r"[<>=!]", name)[0].lower().replace("_", "-") for name in _requirements()}
    assert wanted <= {pin.split("==")[0].lower().replace("_", "-") for pin in pins}


def _requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = project["dependencies"] + extras["dev"] + extras["hf"] + extras["sweep"]
    return [name for name in named if not name.startswith("asyrp_lit")]


@pytest.mark.parametrize("folder", sorted((ROOT / "src/asyrp_lit/assets").iterdir()))
def test_every_asset_has_a_card(folder):
    assert (folder / "card.json").is_file()
