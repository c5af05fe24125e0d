import pytest
from PIL import Image

from asyrp_lit.data.avatars.traits import check_label
from asyrp_lit.hspace.direction import load_direction
from asyrp_lit.hspace.embedded import find_direction, list_embedded
from asyrp_lit.models.registry import load_embedded


@pytest.fixture(scope="module")
def base():
    model = load_embedded("ddpmpp_avatars")
    return model.fingerprint(), model.name


def test_there_are_six_or_more_and_the_default():
    assert len(list_embedded()) >= 6
    assert "glasses" in list_embedded()


@pytest.mark.parametrize("name", list_embedded())
def test_an_embedded_direction_fits_the_embedded_model_and_can_be_judged(name, base):
    _, info = load_direction(find_direction(name), *base)
    assert info.attribute == name
    assert info.metrics["success"] > 0
    for label, classes in info.labels.items():
        for value in classes:
            check_label(label, value)
    assert find_direction(name).stat().st_size < 250_000


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glasses").write_bytes(b"mine")
    assert find_direction("glasses").read_bytes() == b"mine"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"no direction file nobody, nor an embedded .*glasses"):
        find_direction("nobody")


@pytest.mark.slow
def test_edit_without_an_argument_shows_glasses(scripts, tmp_path):
    outcome = scripts.run("edit.py", "n=1", "num_steps=10", f"paths.outputs={tmp_path}", f"out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.text
    (folder,) = (tmp_path / "out/images").iterdir()
    assert Image.open(folder / "strength_1.png").size == (64, 64)
    assert "directional_cosine" in outcome.text
    assert "success" in outcome.text
