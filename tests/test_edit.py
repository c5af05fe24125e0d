"""``edit.py`` on tiny data: what it writes, how strengths combine, what it goes on with and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from asyrp_lit.hspace.direction import (
    DirectionInfo,
    direction_arguments,
    make_direction,
    read_direction_info,
    save_direction,
)
from asyrp_lit.models.registry import load_folder

METRICS = {"edit_lpips", "directional_cosine", "oracle_score", "success", "preservation"}


@pytest.fixture(scope="module")
def files(scripts, tmp_path_factory):
    """Direction files for the tiny network, by name."""
    folder = tmp_path_factory.mktemp("directions")
    model = load_folder("custom", scripts.unet)
    grid = (0, 333, 666, 999)
    found = {}
    for seed, (name, kind, where) in enumerate(
        [("glasses", "f_t_ddpm", {"glasses": ["no"]}), ("beard", "f_t_ddpm", None), ("eps", "f_eps", None)]
    ):
        torch.manual_seed(seed)
        arguments = direction_arguments(kind, model.h_channels, model.h_size, model.temb_channels, grid)
        info = DirectionInfo(
            kind, arguments, name, "person", f"person with {name}", model.name, model.fingerprint(), 333, 0, 4,
            labels={"glasses": ["glasses"]} if name == "glasses" else {"beard": ["yes"]}, where=where,
        )  # fmt: skip
        found[name] = folder / f"{name}.safetensors"
        save_direction(found[name], make_direction(kind, **arguments), info)
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with pictures of several sizes, one in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "below").mkdir()
    for name, size, color in (
        ("a.png", (40, 50), "red"),
        ("a.jpg", (32, 32), "blue"),
        ("below/one.png", (1, 1), "green"),
    ):
        Image.new("RGB", size, color).save(folder / name)
    return folder


@pytest.fixture(name="edit")
def run_edit(scripts, tmp_path):
    def run(*overrides, out="out"):
        outcome = scripts.run(
            "edit.py", *scripts.tiny(tmp_path), f"hydra.run.dir={tmp_path / 'run'}", f"out={tmp_path / out}", *overrides
        )
        assert "Traceback" not in outcome.text, outcome.text[-6000:]
        return outcome, tmp_path / out

    return run


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_folder_of_photos_becomes_pictures_a_grid_and_numbers(edit, files, photos):
    outcome, out = edit(f"direction={files['glasses']}", f"images={photos}", "strength=[-1,0,2]", "animate=gif")
    assert outcome.code == 0, outcome.text
    pictures = {"source", "reconstruction", "strength_-1", "strength_0", "strength_2", "strip"}
    for key in ("a.png", "a.jpg", "below__one.png"):
        folder = out / "images" / key
        assert {path.stem for path in folder.glob("*.png")} == pictures
        assert Image.open(folder / "animation.gif").n_frames == 24
        assert np.abs(read(folder / "strength_0.png") - read(folder / "reconstruction.png")).max() <= 1
    assert (out / "grid.png").is_file()
    report = json.loads((out / "edit.json").read_text())
    assert set(report["images"]) == {"a.png", "a.jpg", "below/one.png"}
    assert set(report["means"]["strength 2"]) == METRICS
    lpips = [images["strength 2"]["edit_lpips"] for images in report["images"].values()]
    assert report["means"]["strength 2"]["edit_lpips"] == pytest.approx(sum(lpips) / 3)
    assert report["directions"][0]["texts"] == ["person", "person with glasses"]


def test_an_image_does_not_depend_on_its_batch_or_neighbours(edit, files, photos):
    common = (f"direction={files['glasses']}", "strength=1", "t_boost=700")
    _, together = edit(*common, f"images={photos}", out="together")
    _, alone = edit(*common, f"images={photos / 'below'}", "inversion_batch_size=1", out="alone")
    first = read(together / "images/below__one.png/strength_1.png")
    assert np.abs(first - read(alone / "images/one.png/strength_1.png")).max() <= 1
    _, other = edit(*common, f"images={photos / 'below'}", "seed=1", out="other")
    assert np.abs(first - read(other / "images/one.png/strength_1.png")).max() > 1


def test_a_rerun_goes_on_and_other_settings_are_refused(edit, files, photos):
    common = (f"direction={files['glasses']}", f"images={photos}")
    _, out = edit(*common, "strength=1")
    done = out / "images/a.png/metrics.json"
    before = (out / "images/a.jpg/metrics.json").stat().st_mtime_ns
    picture = read(out / "images/a.png/strength_1.png")
    done.unlink()
    outcome, _ = edit(*common, "strength=1")
    assert outcome.code == 0
    assert done.is_file()
    assert (out / "images/a.jpg/metrics.json").stat().st_mtime_ns == before
    assert np.array_equal(read(out / "images/a.png/strength_1.png"), picture)
    outcome, _ = edit(*common, "strength=2")
    assert outcome.code == 1
    assert "has the pictures of other settings" in outcome.text


def test_boosted_pictures_are_the_same_after_a_stop_and_in_another_order(edit, files, photos, tmp_path):
    common = (f"direction={files['glasses']}", "strength=[1,2]", "t_boost=700")
    _, whole = edit(*common, f"images={photos}", out="whole")
    edit(*common, f"images={photos}", "n=1", out="stopped")
    _, resumed = edit(*common, f"images={photos}", out="stopped")
    keys = {"a.jpg": "3.jpg", "a.png": "2.png", "below__one.png": "1.png"}
    (tmp_path / "turned").mkdir()
    for key, other in keys.items():
        (tmp_path / "turned" / other).write_bytes((photos / key.replace("__", "/")).read_bytes())
    _, turned = edit(*common, f"images={tmp_path / 'turned'}", "inversion_batch_size=4", out="turned_out")
    for key, other in keys.items():
        for name in ("strength_1.png", "strength_2.png"):
            picture = read(whole / "images" / key / name)
            assert np.abs(picture - read(resumed / "images" / key / name)).max() <= 1
            assert np.abs(picture - read(turned / "images" / other / name)).max() <= 1
    assert np.abs(picture - read(whole / "images/a.png/strength_2.png")).max() > 1


def test_two_directions_make_a_square_and_share_the_sum(edit, files):
    both = f"direction=[{files['glasses']},{files['beard']}]"
    outcome, out = edit(both, "strength=[[0,1],[0,2]]", "n=2")
    assert outcome.code == 0, outcome.text
    report = json.loads((out / "edit.json").read_text())
    assert list(report["means"])[1:] == [
        "glasses 0, beard 0",
        "glasses 0, beard 2",
        "glasses 1, beard 0",
        "glasses 1, beard 2",
    ]
    assert {"oracle_score/glasses", "success/glasses", "success/beard", "success", "preservation"} <= set(
        report["means"]["glasses 1, beard 2"]
    )
    key = next(iter(report["images"]))
    assert (out / f"grid-{key}.png").is_file()
    _, single = edit(
        f"direction={files['beard']}",
        f"strength={2 / 2**0.5}",
        "n=2",
        "data.val.where={beard: ['yes', 'no']}",
        out="single",
    )
    alone = read(single / "images" / key / "strength_1.41421.png")
    assert np.abs(read(out / "images" / key / "glasses_0-beard_2.png") - alone).max() <= 1


@pytest.mark.parametrize("kind", ["mean", "global"])
def test_averages_are_made_once_and_move_the_picture(edit, files, tmp_path, kind):
    common = (f"direction={files['glasses']}", "n=2", "strength=3", "average_images=3")
    outcome, out = edit(*common, f"kind={kind}")
    assert outcome.code == 0, outcome.text
    (saved,) = (tmp_path / "averages").glob(f"glasses-{kind}-*.safetensors")
    key = next(iter(json.loads((out / "edit.json").read_text())["images"]))
    moved = read(out / "images" / key / "strength_3.png")
    assert np.abs(moved - read(out / "images" / key / "reconstruction.png")).mean() > 1
    again, second = edit(f"direction={saved}", "n=2", "strength=3", out="again")
    assert again.code == 0
    assert np.array_equal(read(second / "images" / key / "strength_3.png"), moved)
    assert "averaging" not in edit(*common, f"kind={kind}", out="third")[0].text


def test_random_latents_are_edited(edit, files):
    outcome, out = edit(f"direction={files['glasses']}", "images=random", "n=2", "strength=1")
    assert outcome.code == 0, outcome.text
    report = json.loads((out / "edit.json").read_text())
    assert list(report["images"]) == ["edit-000000", "edit-000001"]
    assert report["means"]["reconstruction"]["reconstruction_psnr"] > 40  # its images are its own samples


def test_a_store_is_edited_and_must_have_the_steps(edit, files, photos, tmp_path):
    edit(f"direction={files['glasses']}", f"images={photos}", "strength=1")
    (store,) = (path.parent for path in (tmp_path / "latents").glob("*/manifest.json"))
    outcome, out = edit(f"direction={files['glasses']}", f"images={store}", "n=1", "strength=1", out="store")
    assert outcome.code == 0, outcome.text
    assert len(list((out / "images").iterdir())) == 1
    outcome, _ = edit(f"direction={files['glasses']}", f"images={store}", "num_steps=3", out="steps")
    assert outcome.code == 1
    assert "took 4 steps" in outcome.text


def test_a_mask_keeps_what_is_black(edit, files, photos, tmp_path):
    mask = Image.new("L", (200, 100), 0)
    mask.paste(255, (0, 0, 100, 100))
    mask.save(tmp_path / "mask.png")
    common = (f"direction={files['eps']}", f"images={photos / 'a.jpg'}", "strength=8", "t_edit=0")
    outcome, out = edit(*common, f"where={tmp_path / 'mask.png'}")
    assert outcome.code == 0, outcome.text
    folder = out / "images/a.jpg"
    change = np.abs(read(folder / "strength_8.png") - read(folder / "reconstruction.png")).sum(axis=-1)
    assert change[:, :16].mean() > 2 * change[:, 16:].mean()


@pytest.fixture(scope="module")
def pullback(files, tmp_path_factory):
    """A direction that moves x_t, for the tiny network."""
    path = tmp_path_factory.mktemp("pullback") / "pullback_1.safetensors"
    arguments = {"h_channels": 16, "h_size": 16, "channels": 3, "image_size": 32, "step": 0.5}
    arguments |= {"transported": False, "rank": 1, "iterations": 1}
    direction = make_direction("pullback", **arguments)
    direction.v.normal_(generator=torch.Generator().manual_seed(0)).div_(direction.v.norm())
    info = replace(read_direction_info(files["eps"]), kind="pullback", arguments=arguments)
    save_direction(path, direction, info)
    return path


def test_a_mask_fits_a_direction_that_moves_x(edit, pullback, photos, tmp_path):
    half = Image.new("L", (90, 40), 255)
    half.paste(0, (0, 0, 45, 40))
    common = (f"direction={pullback}", f"images={photos / 'a.jpg'}", "strength=4")
    pictures = {}
    for name, mask in (("none", None), ("white", Image.new("L", (90, 40), 255)), ("half", half)):
        if mask:
            mask.save(tmp_path / f"{name}.png")
        outcome, out = edit(*common, *([f"where={tmp_path / name}.png"] if mask else []), out=name)
        assert outcome.code == 0, outcome.text
        pictures[name] = read(out / "images/a.jpg/strength_4.png")
    assert np.array_equal(pictures["white"], pictures["none"])
    assert np.abs(pictures["half"] - pictures["none"]).mean() > 1


@pytest.mark.parametrize("size", [(200, 100), (1, 1), (31, 33)])
def test_a_white_mask_of_any_size_changes_nothing(edit, files, photos, tmp_path, size):
    Image.new("L", size, 255).save(tmp_path / "white.png")
    common = (f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=3")
    pictures = []
    for name, extra in (("with", [f"where={tmp_path / 'white.png'}"]), ("without", [])):
        outcome, out = edit(*common, *extra, out=name)
        assert outcome.code == 0, outcome.text
        pictures.append(read(out / "images/a.jpg/strength_3.png"))
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("size", [(10000, 5000), (14000, 7000)])  # of the second Pillow warns
def test_a_photo_of_many_megapixels_is_edited_without_a_warning(edit, files, tmp_path, size):
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
        (("direction=nobody",), "no direction file nobody, nor an embedded direction"),
        (("direction=[]",), "direction must name a file"),
        (("images=/no/such/folder",), "does not exist"),
        (("images=TMP/EMPTY",), "has no images"),
        (("combine=product",), "combine must be one of normalised, sum"),
        (("kind=median",), "kind must be one of per_image, mean, global"),
        (("process=both",), "process must be one of asymmetric, symmetric"),
        (("animate=avi",), "animate must be one of None, gif, mp4"),
        (("n=0",), "n must be null or a whole number"),
        (("t_edit=1000",), "no step edits"),
        (("where=/no/mask.png",), "/no/mask.png"),
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
