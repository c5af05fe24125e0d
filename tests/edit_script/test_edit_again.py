"""What ``edit.py`` does where little is said, where results were lost, and where names are odd."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asyrp_lit.hspace.direction import read_direction, save_direction


@pytest.mark.parametrize("count", [2, 4])
def test_several_directions_without_a_strength_are_added_at_1_each(edit, files, photos, count):
    listed = ",".join(str(path) for path in [files["glasses"], files["beard"]] * (count // 2))
    outcome, out = edit(f"direction=[{listed}]", f"images={photos / 'a.jpg'}")
    assert outcome.code == 0, outcome.text
    columns = [name for name in json.loads((out / "edit.json").read_text())["means"] if name != "reconstruction"]
    names = ["glasses", "beard"] if count == 2 else ["glasses-1", "beard-2", "glasses-3", "beard-4"]
    assert columns == [", ".join(f"{name} 1" for name in names)]


def test_one_direction_without_a_strength_gives_a_strip(edit, files, photos):
    _, out = edit(f"direction={files['glasses']}", f"images={photos / 'a.jpg'}")
    report = json.loads((out / "edit.json").read_text())
    assert list(report["means"]) == ["reconstruction", *(f"strength {s}" for s in ("-1", "0.5", "1", "1.5"))]
    assert report["settings"]["strength"] == [-1.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    "loss", ["picture", "source", "strip", "animation", "cut off", "metrics", "columns", "a column"]
)
def test_what_was_lost_or_damaged_is_made_again(edit, files, photos, loss):
    common = (f"direction={files['glasses']}", f"images={photos}", "strength=1", "animate=gif", "animate_frames=3")
    _, out = edit(*common)
    kept = (out / "images/a.jpg/metrics.json").stat().st_mtime_ns
    folder = out / "images/a.png"
    names = {"source": "source.png", "strip": "strip.png", "animation": "animation.gif"}
    pictures = names | {"picture": "strength_1.png", "cut off": "strength_1.png"}
    lost = folder / pictures.get(loss, "metrics.json")
    content = lost.read_bytes()
    damaged = {"metrics": b"", "columns": b"{}", "a column": content.replace(b'"strength 1"', b'"strength 2"')}
    damaged["cut off"] = content[:-1]
    lost.unlink()
    if loss in damaged:
        lost.write_bytes(damaged[loss])
    outcome, _ = edit(*common)
    assert outcome.code == 0, outcome.text
    assert "the image is edited again" in outcome.text
    assert lost.read_bytes()[-8:] == content[-8:]
    assert lost.read_bytes() != damaged.get(loss)
    assert (out / "images/a.jpg/metrics.json").stat().st_mtime_ns == kept


def test_damage_that_cannot_be_made_good_is_named(edit, files, photos):
    common = (f"direction={files['glasses']}", f"images={photos / 'a.png'}", "strength=1")
    _, out = edit(*common)
    picture, settings = out / "images/a.png/strength_1.png", out / "settings.json"
    content = picture.read_bytes()
    picture.write_bytes(content[:60] + bytes(20) + content[80:])
    outcome, _ = edit(*common)
    assert outcome.code == 1
    assert f"{picture} is damaged (" in outcome.text
    settings.write_text("")
    outcome, _ = edit(*common)
    assert outcome.code == 1
    assert f"{settings} is damaged (" in outcome.text


@pytest.mark.parametrize("named", ["random-faces", "faces"])
def test_a_folder_called_random_holds_photos(edit, files, photos, tmp_path, read, named):
    shutil.copytree(photos, tmp_path / named)
    common = (f"direction={files['glasses']}", "strength=1", "t_boost=700", "n=2")
    outcome, photo = edit(*common, f"images={tmp_path / named}", out="photo")
    assert outcome.code == 0, outcome.text
    (store,) = {path.parent for path in tmp_path.rglob(f"latents/*{named}*/manifest.json")}
    outcome, stored = edit(*common, f"images={store}", out="stored")
    assert outcome.code == 0, outcome.text
    for name in ("a.jpg", "a.png"):
        assert np.array_equal(*(read(out / f"images/{name}/strength_1.png") for out in (photo, stored)))


def test_the_store_of_random_latents_gives_the_same_boosted_pictures(edit, files, tmp_path, read):
    common = (f"direction={files['glasses']}", "strength=1", "t_boost=700", "n=2")
    outcome, drawn = edit(*common, "images=random", out="drawn")
    assert outcome.code == 0, outcome.text
    (store,) = {path.parent for path in tmp_path.rglob("latents/*random-edit*/manifest.json")}
    _, stored = edit(*common, f"images={store}", out="stored")
    for name in ("edit-000000", "edit-000001"):
        assert np.array_equal(*(read(out / f"images/{name}/strength_1.png") for out in (drawn, stored)))


def test_an_average_over_cartoons_is_none_for_photos(edit, files, photos, tmp_path):
    common = (f"direction={files['glasses']}", f"images={photos}", "strength=1", "kind=mean", "average_images=2")
    common += ("model.domain=photos",)
    outcome, _ = edit(*common)
    assert outcome.code == 1
    assert "averages over train images, and those of data=avatars are cartoons" in outcome.text
    assert not list(tmp_path.rglob("averages/*"))
    outcome, _ = edit(*common, "data=folder", f"data.train.folder={photos}", "data.val_images=1")
    assert outcome.code == 0, outcome.text
    assert list(tmp_path.rglob("averages/*.safetensors"))


def test_an_average_is_of_one_precision(edit, files, photos, tmp_path, read):
    common = (f"direction={files['glasses']}", f"images={photos / 'a.png'}", "strength=3", "kind=mean")
    common += ("average_images=2", "n=1")
    pictures = []
    for out, trainer in (("first", "cpu"), ("bf16", "cpu_bf16"), ("again", "cpu")):
        for path in tmp_path.rglob("averages/*.safetensors") if out == "bf16" else ():
            path.unlink()
        outcome, folder = edit(*common, f"trainer={trainer}", out=out)
        assert outcome.code == 0, outcome.text
        pictures.append(read(folder / "images/a.png/strength_3.png"))
    assert len(list(tmp_path.rglob("averages/*.safetensors"))) == 2
    assert np.array_equal(pictures[0], pictures[2])


def test_attributes_with_a_slash_can_be_added(edit, files, photos, tmp_path):
    paths = []
    for name in ("glasses", "beard"):
        direction, info = read_direction(files[name])
        paths.append(tmp_path / f"{name}.safetensors")
        save_direction(paths[-1], direction, replace(info, attribute=f"{name}/odd"))
    outcome, out = edit(f"direction=[{paths[0]},{paths[1]}]", f"images={photos / 'a.jpg'}", "strength=0.5")
    assert outcome.code == 0, outcome.text
    assert (out / "images/a.jpg/glasses__odd_0.5-beard__odd_0.5.png").is_file()


def test_results_beside_photos_are_no_photos(edit, files, photos, tmp_path):
    mixed = shutil.copytree(photos, tmp_path / "mixed")
    for name in ("gridlock.png", "grid-2.png"):
        shutil.copy(photos / "a.png", mixed / name)
    common = (f"direction={files['glasses']}", "strength=1")
    outcome, _ = edit(*common, f"images={mixed / 'a.png'}", f"out={mixed}")
    assert outcome.code == 0, outcome.text
    assert (mixed / "grid.png").is_file()
    outcome, out = edit(*common, f"images={mixed}")
    assert outcome.code == 0, outcome.text
    assert set(json.loads((out / "edit.json").read_text())["images"]) == {
        *("a.jpg", "a.png", "below/one.png"),
        *("gridlock.png", "grid-2.png"),
    }


def test_a_tilde_is_the_home(edit, files, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(photos, tmp_path / "home/photos")
    common = (f"direction={files['glasses']}", "strength=1", "n=1")
    outcome, _ = edit(*common, "images='~/photos'", "out='~/edited'")
    assert outcome.code == 0, outcome.text
    assert (tmp_path / "home/edited/grid.png").is_file()
    assert not Path("~").exists()
    (store,) = {path.parent for path in tmp_path.rglob("latents/*photos*/manifest.json")}
    shutil.move(store, tmp_path / "home/store")
    outcome, _ = edit(*common, "images='~/store'", out="other")
    assert outcome.code == 0, outcome.text


def test_a_picture_at_a_url_is_named_as_such(edit, files):
    outcome, _ = edit(f"direction={files['glasses']}", "images=https://localhost/a.png")
    assert outcome.code == 1
    assert "images=https://localhost/a.png is an image elsewhere: download it" in outcome.text
