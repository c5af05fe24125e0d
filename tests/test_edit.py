"""``edit.py`` on tiny data: what it writes, how strengths combine, what it goes on with and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction, save_direction
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("strength=nan",), "strength must be finite numbers, got nan"),
        (("strength=[]",), "strength names no number"),
        (("direction=nobody",), "no direction file nobody, nor an embedded direction"),
        (("direction=[]",), "direction must name a file"),
        (("images=/no/such/folder",), "does not exist"),
        (("images=EMPTY",), "has no images"),
        (("combine=product",), "combine must be one of normalised, sum"),
        (("kind=median",), "kind must be one of per_image, mean, global"),
        (("process=both",), "process must be one of asymmetric, symmetric"),
        (("animate=avi",), "animate must be one of None, gif, mp4"),
        (("n=0",), "n must be null or a whole number"),
        (("t_edit=1000",), "no step edits"),
        (("where=/no/mask.png",), "/no/mask.png"),
        (("model=ddpmpp_avatars", "model.weights=null"), ""),
    ],
)
def test_wrong_input_ends_with_one_message(edit, files, tmp_path, overrides, message):
    (tmp_path / "EMPTY").mkdir()
    named = [word.replace("EMPTY", str(tmp_path / "EMPTY")) for word in overrides]
    outcome, out = edit(*([] if "direction" in overrides[0] else [f"direction={files['glasses']}"]), *named)
    assert outcome.code == 1
    assert message in outcome.text
    assert not list(out.rglob("*.png"))


def test_a_direction_for_another_model_is_refused(scripts, files, tmp_path):
    outcome = scripts.run("edit.py", f"direction={files['glasses']}", f"paths.outputs={tmp_path}")
    assert outcome.code == 1
    assert "was trained on custom" in outcome.text
