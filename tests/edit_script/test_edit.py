"""``edit.py`` on tiny data: what it writes, how strengths combine, what it goes on with and what it refuses."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from asyrp_lit.editing.sample import sample_images
from asyrp_lit.plots.save import save_figure
from asyrp_lit.stages import edit_results
from asyrp_lit.stages.edit_results import folder_name

METRICS = {"edit_lpips", "directional_cosine", "oracle_score", "success", "preservation"}


def test_a_folder_of_photos_becomes_pictures_a_grid_and_numbers(edit, files, photos, read):
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


def test_an_animation_shares_the_samples_of_the_strip(edit, files, photos, monkeypatch):
    sampled = []

    def count(model, x_T, *rest):
        sampled.append(rest[2].copies)
        return sample_images(model, x_T, *rest)

    monkeypatch.setattr("asyrp_lit.editing.plan.sample_images", count)
    common = (f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=[0,1]")
    outcome, out = edit(*common, "animate=gif", "animate_frames=4")
    assert outcome.code == 0, outcome.text
    assert sum(sampled) == 3  # of 0, 0.5 and 1
    assert Image.open(out / "images/a.jpg/animation.gif").n_frames == 4


def test_the_rows_of_the_grid_are_named_in_any_script_without_a_warning(edit, files, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        edit_results, "save_figure", lambda figure, path: drawn.append(save_figure(figure, path) and figure)
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("猫.png", "me.png"):
        Image.new("RGB", (40, 40), "red").save(folder / name)
    outcome, _ = edit(f"direction={files['glasses']}", f"images={folder}", "strength=1")
    assert (outcome.code, "Warning" in outcome.text) == (0, False)
    assert {"猫.png", "me.png"} <= {text.get_text() for text in drawn[0].texts}


def test_an_image_does_not_depend_on_its_batch_or_neighbours(edit, files, photos, read):
    common = (f"direction={files['glasses']}", "strength=1", "t_boost=700")
    _, together = edit(*common, f"images={photos}", out="together")
    _, alone = edit(*common, f"images={photos / 'below'}", "inversion_batch_size=1", out="alone")
    first = read(together / "images/below__one.png/strength_1.png")
    assert np.abs(first - read(alone / "images/one.png/strength_1.png")).max() <= 1
    _, other = edit(*common, f"images={photos / 'below'}", "seed=1", out="other")
    assert np.abs(first - read(other / "images/one.png/strength_1.png")).mean() > 10


def test_a_rerun_goes_on_and_other_settings_are_refused(edit, files, photos, read):
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
    assert np.abs(read(out / "images/a.png/strength_1.png") - picture).max() <= 1
    outcome, _ = edit(*common, "strength=2")
    assert outcome.code == 1
    assert "has the pictures of other settings" in outcome.text


def test_settings_of_another_program_are_left_alone(edit, files, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    settings = tmp_path / "mine/settings.json"
    settings.write_text('{"editor.tabSize": 2}')
    outcome, _ = edit(
        f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=1", f"out={settings.parent}"
    )
    assert outcome.code == 1
    assert f"{settings} is of another program: choose another folder with out=" in outcome.text
    assert settings.read_text() == '{"editor.tabSize": 2}'


def test_a_rerun_is_refused_for_what_changes_results_and_for_nothing_else(edit, files, photos, tmp_path):
    common = (f"images={photos / 'a.jpg'}", "strength=1")
    _, out = edit(*common, f"direction={files['glasses']}")
    report = json.loads((out / "edit.json").read_text())
    assert (report["device"], report["precision"]) == ("cpu", {"latents": "32-true", "edit": "32-true"})
    assert {"model", "clip", "latents", "trainer", "data"} <= set(report["settings"])
    for name, override in (
        ("precision.edit: 32-true there, bf16 asked for", "trainer=cpu_bf16"),
        ("settings.clip.templates: imagenet there, none asked for", "clip.templates=none"),
        ("directions: ['glasses ", f"direction={files['beard']}"),
    ):
        outcome, _ = edit(*common, f"direction={files['glasses']}", override)
        assert outcome.code == 1
        assert f"{out} has the pictures of other settings ({name}" in outcome.text
    moved = shutil.copy(files["glasses"], tmp_path / "moved.safetensors")
    free = (
        "zoom=3",
        "animate_frames=5",
        "inversion_batch_size=4",
        "on_bad_image=skip",
        "channels_last=false",
        "latents.num_workers=0",
    )
    outcome, _ = edit(*common, f"direction={moved}", *free, f"paths.averages={tmp_path}")
    assert outcome.code == 0, outcome.text


def test_a_folder_of_an_earlier_version_goes_on(edit, files, photos):
    common = (f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=1")
    _, out = edit(*common)
    kept = json.loads((out / "settings.json").read_text())
    for name in ("device", "precision", "mask_sha256"):
        del kept[name]
    for name in ("model", "clip", "paths", "data", "latents", "interval", "trainer", "callbacks", "method", "zoom"):
        del kept["settings"][name]
    (out / "settings.json").write_text(json.dumps(kept))
    assert edit(*common)[0].code == 0
    (out / "settings.json").write_text(json.dumps(kept))
    assert "(settings.seed: 0 there, 1 asked for)" in edit(*common, "seed=1")[0].text


def test_of_a_folder_to_which_an_image_was_added_only_that_is_inverted(edit, files, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    common = (f"direction={files['glasses']}", f"images={folder}", "strength=1")
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("c.png", "green")):
        Image.new("RGB", (40, 40), colour).save(folder / name)
    assert "the others are in" not in edit(*common, out="three")[0].text
    Image.new("RGB", (40, 40), "white").save(folder / "d.png")
    assert "inverted 1 of 4 images, the others are in" in edit(*common, out="four")[0].text
    assert "inverted 0 of 2 images, the others are in" in edit(*common, "n=2", out="two")[0].text
    Image.new("RGB", (40, 40), "black").save(folder / "a.png")
    assert "inverted 1 of 4 images, the others are in" in edit(*common, out="changed")[0].text
    assert "the others are in" not in edit(*common, "num_steps=5", out="steps")[0].text


def test_another_image_of_the_same_name_is_refused(edit, files, tmp_path):
    face = tmp_path / "a/face.png"
    face.parent.mkdir()
    Image.new("RGB", (40, 40), "red").save(face)
    common = (f"direction={files['glasses']}", "strength=1")
    _, out = edit(*common, f"images={face.parent}")
    before = (out / "edit.json").read_bytes()
    Image.new("RGB", (40, 40), "blue").save(face)
    outcome, _ = edit(*common, f"images={face.parent}")
    assert outcome.code == 1
    assert "has the pictures of another image named face.png: choose another folder with out=" in outcome.text
    assert (out / "edit.json").read_bytes() == before


@pytest.mark.parametrize(
    "keys",
    [
        ("sub/face.png", "sub__face.png"),
        ("a_/b.png", "a/_b.png"),
        ("a\u2122.png", "a!22.png"),
        ("x" * 250 + "1.png", "x" * 250 + "2.png"),
        ("sub/" + "ö" * 125 + ".png", "sub/" + "ö" * 124 + ".png"),
    ],
)
def test_two_keys_never_share_a_folder_and_its_name_fits_a_file_system(keys):
    names = [folder_name(key).casefold() for key in keys]
    assert names[0] != names[1]
    assert max(len(f".grid-{name}.png.12345678.tmp".encode()) for name in names) <= 255


def test_ordinary_keys_keep_their_readable_folders():
    keys = ("a.png", "sub/me_1.png", "my photo #1.jpg", "größe.png")
    assert [*map(folder_name, keys)] == ["a.png", "sub__me_1.png", "my photo %231.jpg", "größe.png"]


def test_images_whose_names_look_alike_keep_their_own_numbers_and_go_on(edit, files, tmp_path):
    for name, color in (("sub/face.png", "red"), ("sub__face.png", "blue"), (f"{'x' * 250}.png", "green")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), color).save(tmp_path / "photos" / name)
    command = (f"direction={files['glasses']}", "strength=1", f"images={tmp_path / 'photos'}")
    for outcome, out in (edit(*command), edit(*command)):
        assert outcome.code == 0, outcome.text
        report = json.loads((out / "edit.json").read_text())["images"]
        assert len({str(verdict) for verdict in report.values()}) == 3


def test_other_random_latents_of_the_same_name_are_refused(edit, files):
    runs = [
        edit(f"direction={files['glasses']}", "strength=1", "latents=random", "n=1", f"latents.seed={seed}")[0]
        for seed in (0, 0, 1)
    ]
    assert [outcome.code for outcome in runs] == [0, 0, 1]
    assert "has the pictures of another image" in runs[-1].text


def test_boosted_pictures_are_the_same_after_a_stop_and_in_another_order(edit, files, photos, tmp_path, read):
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
    assert np.abs(picture - read(whole / "images/a.png/strength_2.png")).mean() > 10


def test_two_directions_make_a_square_and_share_the_sum(edit, files, read):
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
def test_averages_are_made_once_and_move_the_picture(edit, files, read, tmp_path, kind):
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
