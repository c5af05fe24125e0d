"""Photos that are large and input that is wrong, for ``edit.py``."""

import json

import numpy as np
import pytest
from PIL import Image

METRICS = {"edit_lpips", "directional_cosine", "oracle_score", "success", "preservation"}


@pytest.mark.parametrize("size", [(10000, 5000), (14000, 7000)])  # of the second Pillow warns
def test_a_photo_of_many_megapixels_is_edited_without_a_warning(edit, files, tmp_path, size, read):
    across = Image.linear_gradient("L")
    photo = Image.merge("RGB", (across, across.rotate(90), across.rotate(180))).resize(size)
    photo.save(tmp_path / "large.jpg")
    outcome, out = edit(f"direction={files['glasses']}", f"images={tmp_path / 'large.jpg'}", "strength=1")
    assert outcome.code == 0, outcome.text
    assert "Warning" not in outcome.text
    centre = photo.crop((size[1] // 2, 0, size[1] // 2 + size[1], size[1])).resize((32, 32))
    assert np.abs(read(out / "images/large.jpg/source.png") - np.asarray(centre).astype(int)).max() <= 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("strength=nan",), "strength must be finite numbers, got nan"),
        (("strength=[]",), "strength names no number"),
        (("strength=[0.1234567,0.1234568]",), "strengths 0.1234567 and 0.1234568 would be one in names"),
        (("direction=nobody",), "no direction file nobody, nor an embedded direction"),
        (("direction=[]",), "direction must name a file"),
        (("images=/no/such/folder",), "does not exist"),
        (("images=TMP/EMPTY",), "has no images"),
        (("combine=product",), "combine must be one of normalised, sum"),
        (("kind=median",), "kind must be one of per_image, mean, global"),
        (("process=both",), "process must be one of asymmetric, symmetric"),
        (("animate=avi",), "animate must be one of null, gif, mp4"),
        (("n=0",), "n must be null or a whole number"),
        (("num_steps=8.5",), "num_steps must be null or a whole number, 2 or more, got 8.5"),
        (("t_edit=abc",), "t_edit must be null or a whole number, 0 or more, got 'abc'"),
        (("t_edit=300.5",), "t_edit must be null or a whole number, 0 or more, got 300.5"),
        (("seed=abc",), "seed must be a whole number, 0 or more, got 'abc'"),
        (("images=5",), "images must be null, random, a path, or a list of image files, got 5"),
        (("images=[]",), "images must be null, random, a path, or a list of image files, got []"),
        (("images=[/no/a.png]",), "there is no image file /no/a.png"),
        (("out=2024",), "out must be null or the path of a folder, got 2024"),
        (("where=5",), "where must be null or the path of a picture, got 5"),
        (("t_edit=1000",), "no step edits"),
        (("t_edit=1001",), "t_edit must be 0 to 1000, got 1001"),
        (("where=/no/mask.png",), "there is no image file /no/mask.png"),
        (("where=TMP/BLACK",), "is black everywhere"),
        (("where=TMP/TEXT",), "of no format that Pillow knows"),
        (("images=TMP/FEW",), "b.png cannot be read"),
        (("model=ddpmpp_avatars", "model.weights=null"), "Could not override 'model.weights'"),
    ],
)
def test_wrong_input_ends_with_one_message(edit, files, tmp_path, overrides, message):
    for name in ("EMPTY", "FEW"):
        (tmp_path / name).mkdir()
    Image.new("L", (40, 30), 0).save(tmp_path / "BLACK", "png")
    Image.new("L", (40, 30), 9).save(tmp_path / "FEW/a.png")
    for name in ("TEXT", "FEW/b.png"):
        (tmp_path / name).write_text("no picture")
    named = [word.replace("TMP", str(tmp_path)) for word in overrides]
    outcome, out = edit(*([] if "direction" in overrides[0] else [f"direction={files['glasses']}"]), *named)
    assert outcome.code == 1
    assert message in outcome.text
    assert outcome.text.count("[ERROR]") <= 1  # Hydra's own messages have no such mark
    assert not out.exists()


def test_results_in_place_of_a_file_are_refused(edit, files, tmp_path):
    place = tmp_path / "notes.txt"
    place.write_text("mine")
    outcome, _ = edit(f"direction={files['glasses']}", "images=random", "n=1", out=place)
    assert outcome.code == 1
    assert f"out={place} is a file: name a folder" in outcome.text
    assert place.read_text() == "mine"


def test_results_below_the_images_are_not_edited_by_a_rerun(edit, files, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "me.png")
    command = (f"direction={files['glasses']}", "strength=1", f"images={tmp_path}")
    for out in ("edited", "edited", "set/again"):
        outcome, folder = edit(*command, out=out)
        assert outcome.code == 0, outcome.text
        assert [path.name for path in (folder / "images").iterdir()] == ["me.png"]


@pytest.mark.parametrize("place", ["photos", "photos/images"])
def test_results_among_the_images_are_refused(edit, files, tmp_path, place):
    images = tmp_path / place
    images.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(images / "me.png")
    outcome, _ = edit(f"direction={files['glasses']}", f"images={images}", out="photos")
    assert outcome.code == 1
    assert f"choose another folder, such as out={images / 'edited'}" in outcome.text
    assert [*images.iterdir()] == [images / "me.png"]


def test_a_list_of_files_is_edited_in_its_order(edit, files, photos):
    named = [photos / "below/one.png", photos / "a.png"]
    outcome, out = edit(f"direction={files['glasses']}", f"images=[{named[0]},{named[1]}]", "strength=1")
    assert outcome.code == 0, outcome.text
    assert list(json.loads((out / "edit.json").read_text())["images"]) == ["below/one.png", "a.png"]
    assert sorted(path.name for path in out.rglob("strength_1.png")) == ["strength_1.png"] * 2


@pytest.mark.parametrize("kind", ["mean", "global"])
def test_what_cannot_be_averaged_is_refused_before_any_work(edit, files, kind):
    outcome, out = edit(f"direction={files['eps']}", f"kind={kind}")
    assert outcome.code == 1
    assert "only directions in h-space are averaged, this one is in eps-space" in outcome.text
    assert "invert" not in outcome.text
    assert not out.exists()


def test_a_strength_beyond_all_numbers_leaves_no_picture(edit, files, photos):
    outcome, out = edit(f"direction={files['glasses']}", f"images={photos}", "strength=[1,1e30]")
    assert outcome.code == 1
    assert "the edit with strengths [1e+30] is no longer finite" in outcome.text
    assert not list(out.rglob("*.png"))


def test_directions_of_two_base_models_are_refused_whichever_comes_first(edit, files):
    for both in (f"[{files['glasses']},smiling]", f"[smiling,{files['glasses']}]"):
        outcome, out = edit(f"direction={both}")
        assert outcome.code == 1
        assert outcome.text.count("[ERROR]") == 1
        assert "smiling.safetensors was trained on ddpmpp_avatars" in outcome.text
        assert not out.exists()


def test_a_direction_for_another_model_is_refused(scripts, files, tmp_path):
    outcome = scripts.run("edit.py", f"direction={files['glasses']}", f"paths.outputs={tmp_path}")
    assert outcome.code == 1
    assert "was trained on custom" in outcome.text
