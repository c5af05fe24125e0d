"""Every snippet of the library's page, and of the README, runs; the tiny network sits in for the avatars'."""

import re
from pathlib import Path
from textwrap import dedent

import pytest
import torch

import asyrp_lit
from asyrp_lit.hspace import embedded
from asyrp_lit.library import models, parts

ROOT = Path(__file__).parents[2]


def read_snippets(page):
    return [
        dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    ]


@pytest.fixture(name="run")
def run_snippets(unet, files, photos, tmp_path, monkeypatch):
    """All of a page's, one after the other; returns what they leave."""
    for name in ("smiling", "glasses"):
        (tmp_path / f"{name}.safetensors").write_bytes(files[name].read_bytes())
    monkeypatch.setattr(embedded, "_FOLDER", tmp_path)
    for place in (models, parts):
        monkeypatch.setattr(place, "load_embedded", {"ddpmpp_avatars": asyrp_lit.load_model(unet)}.get)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    photos[0].save("portrait.png")

    def run(page):
        left: dict[str, object] = {}
        for number, code in enumerate(read_snippets(ROOT / page)):
            exec(compile(code, f"{page} snippet {number + 1}", "exec"), left)
        return left

    return run


def test_the_five_lines_of_the_readme_edit_a_picture(run):
    assert run("README.md")["edited"].shape == (1, 3, 32, 32)
    assert Path("edited.png").is_file()


def test_the_page_of_the_library_does_what_it_says(run):
    left = run("docs/library.md")
    assert (len(left["strip"]), len(left["pictures"]), len(left["samples"])) == (3, 1, 2)
    assert list(left["pipe"].directions) == ["glasses", "smiling"]
    assert sorted(left["again"].directions) == ["glasses", "smile", "smiling"]
    assert left["again"].directions["smile"].info == left["again"].directions["smiling"].info
    assert isinstance(left["stronger"], torch.Tensor)
