"""discover.py on four portraits, four steps and a random network: its files, and what it refuses."""

import json
import re

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from asyrp_lit.data.open_images import open_split
from asyrp_lit.hspace import pullback
from asyrp_lit.hspace.direction import get_space, read_direction
from asyrp_lit.hspace.pullback import find_local_basis
from asyrp_lit.stages import discover_find
from asyrp_lit.stages.discover_labels import choose_classes

FEW = ("data.train.num_images=6", "data.val.num_images=4", "interval=all", "sheet_images=2", "judged_images=3")
STRENGTHS = ("method.strengths=[-1.5,0,1.5]", "method.judged=1.5")
LABELS = ["expression", "hair_length", "hair_color", "skin", "beard", "glasses"]


@pytest.fixture(scope="module")
def discover(scripts, tmp_path_factory):
    """Run discover.py; all runs share their latents."""
    outputs = tmp_path_factory.mktemp("outputs")
    tiny = [option for option in scripts.tiny(outputs) if not option.startswith("method.batch_size")]

    def run(name, *overrides):
        folder = outputs / name
        common = (*tiny, *FEW, f"hydra.run.dir={folder}")
        outcome = scripts.run("discover.py", *common, *overrides)
        assert "Traceback" not in outcome.text
        return folder, outcome

    run.outputs = outputs
    return run


@pytest.fixture
def folder(tmp_path):
    """Ten images in a folder: ``0.png`` and so on."""
    (tmp_path / "own").mkdir()
    for number in range(10):
        Image.new("RGB", (32, 32), (20 * number, 90, 128)).save(tmp_path / "own" / f"{number}.png")
    return tmp_path / "own"


def succeed(discover, *overrides):
    folder, outcome = discover(*overrides, *STRENGTHS)
    assert outcome.code == 0, outcome.text
    assert min(Image.open(folder / "sheet.png").size) > 200
    report = json.loads((folder / "discover.json").read_text())
    assert sorted(report) == sorted(path.stem for path in folder.glob("*.safetensors"))
    for entry in report.values():
        assert list(entry["changes"]) == ["-1.5", "+1.5"]
        assert list(entry["changes"]["+1.5"]) == LABELS
    return folder, report


@pytest.mark.parametrize(("shared", "kind"), [("false", "per_timestep"), ("true", "global")])
def test_principal_components_are_direction_files_of_a_standard_deviation(discover, shared, kind):
    folder, report = succeed(
        discover, f"pca-{kind}", "method=pca", "method.num_components=2", f"method.shared={shared}"
    )
    assert list(report) == ["pca_1", "pca_2"]
    (first, info), (second, _) = (read_direction(folder / f"{name}.safetensors") for name in report)
    assert (info.kind, info.src_text, info.source["images"]) == (kind, "", "6 of avatars-train")
    shares = [entry["metrics"]["variance_explained"] for entry in report.values()]
    assert 0 < shares[1] <= shares[0] < 1
    assert torch.cosine_similarity(first.delta_h.flatten(), second.delta_h.flatten(), dim=0).abs() < 1e-3


def test_labels_give_the_class_mean_difference_and_the_boundary(discover, tmp_path):
    path = tmp_path / "classes.csv"
    keys = (discover("pca-per_timestep", "method=pca", "method.num_components=1")[0] / "images-train.txt").read_text()
    path.write_text("".join(f"{key},{'cat' if i % 2 else 'dog'}\n" for i, key in enumerate(keys.split())))
    classes = (f"method.csv={path}", "method.label=animal", "method.positive=cat", "method.negative=null")
    folder, report = succeed(discover, "labels", "method=labels", *classes)
    assert list(report) == ["animal_cat_mean", "animal_cat_svm"]
    (mean, info), (svm, _) = (read_direction(folder / f"{name}.safetensors") for name in report)
    assert info.source["images"] == "3 cat, 3 other of avatars-train"
    assert 0 <= report["animal_cat_svm"]["metrics"]["held_out_accuracy"] <= 1
    for along, difference in zip(svm.delta_h, mean.delta_h, strict=True):
        assert (along * difference).sum() / along.square().sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("positive", "negative", "written", "names"),
    [
        (1, 0, ("1", "0"), ("1", "0")),
        (0, None, ("0", "1"), ("0", "other")),
        (True, False, ("True", "FALSE"), ("true", "false")),
        ("true", None, ("TRUE", "false"), ("true", "other")),
        ("Yes", "no", ("Yes", "no"), ("Yes", "no")),
    ],
)
def test_classes_are_compared_as_text_whatever_yaml_takes_them_for(
    folder, tmp_path, positive, negative, written, names
):
    sources = {split: open_split(split, folder, None, 32, 0.2, 0) for split in ("train", "val")}
    path = tmp_path / "classes.csv"
    path.write_text("Key,Class\n" + "".join(f"{n}.png,{written[n % 2]}\n" for n in range(10)))
    method = {"csv": str(path), "label": "smart", "positive": positive, "negative": negative, "num_images": 48}
    found = choose_classes(OmegaConf.create({"method": method}), sources)
    assert found.names == names
    numbers = [int(sources["train"].keys[index].removesuffix(".png")) for index in found.indices]
    assert [number % 2 == 0 for number in numbers] == found.positive
    assert sorted(f"{number}.png" for number in numbers) == sources["train"].keys


def test_a_csv_of_all_images_of_a_folder_gives_directions_that_can_be_added(scripts, folder, tmp_path):
    path, run = tmp_path / "all.csv", tmp_path / "run"
    path.write_text("".join(f"{n}.png,{'long/curly' if n % 2 else 0}\n" for n in range(10)))
    tiny = [option for option in scripts.tiny(tmp_path) if not option.startswith("method.batch_size")]
    own = (
        "data=folder",
        f"data.train.folder={folder}",
        "data.train.limit=8",
        f"method.csv={path}",
        "method.label=hair",
    )
    few = ("interval=all", "sheet_images=1", "judged_images=1", f"hydra.run.dir={run}", *STRENGTHS)
    classes = ("method.positive=long/curly", "method.negative=0")
    outcome = scripts.run("discover.py", "method=labels", *tiny, *own, *few, *classes)
    assert outcome.code == 0, outcome.text
    assert "2 images that it names are not among the train images and left out" in outcome.text
    files = {"hair_long__curly_mean.safetensors", "hair_long__curly_svm.safetensors"}
    assert {file.relative_to(run).as_posix() for file in run.rglob("*.safetensors")} == files
    info = read_direction(run / "hair_long__curly_mean.safetensors")[1]
    assert info.attribute == "hair_long__curly_mean"
    assert re.fullmatch(r"\d long/curly, \d 0 of own", info.source["images"])


def test_pullback_is_about_the_image_that_is_named(discover, monkeypatch):
    computed = []

    def count(encode, x_t, *rest):
        computed.append(len(x_t))
        return find_local_basis(encode, x_t, *rest)

    for module in (pullback, discover_find):
        monkeypatch.setattr(module, "find_local_basis", count)
    few = ("method.num_components=2", "method.rank=2", "method.iterations=2", "method.image=val-000002", "method.t=700")
    folder, report = succeed(discover, "pullback", "method=pullback", *few)
    assert list(report) == ["pullback_1", "pullback_2"]
    assert (folder / "images-val.txt").read_text().split()[0] == "val-000002"
    direction, info = read_direction(folder / "pullback_1.safetensors")
    assert (info.kind, info.source["images"], info.source["t"]) == ("pullback", "val-000002", "666")
    assert (info.t_edit, info.t_start, get_space(direction)) == (334, 666, "x")
    assert direction.v.norm() == pytest.approx(1, abs=1e-4)
    assert sum(computed) == 1 + len((folder / "images-val.txt").read_text().split())  # not once for each component


@pytest.mark.parametrize(("name", "shown"), [("b$_$.png", "b$_$.png"), ("caf\udce9.png", "caf\\xe9.png")])
def test_pullback_is_about_an_image_of_any_name(scripts, tmp_path, name, shown):
    Image.new("RGB", (32, 32), "teal").save(tmp_path / name)
    tiny = [option for option in scripts.tiny(tmp_path) if not option.startswith("method.batch_size")]
    few = ("method.num_components=1", "method.rank=1", "method.iterations=1", f"hydra.run.dir={tmp_path / 'run'}")
    outcome = scripts.run("discover.py", "method=pullback", *tiny, "data=folder", f"data.train.folder={tmp_path}", *few)
    assert outcome.code == 0, outcome.text
    assert (tmp_path / "run" / "sheet.png").is_file()
    assert read_direction(tmp_path / "run" / "pullback_1.safetensors")[1].source["images"] == shown


@pytest.mark.parametrize("options", [["method=pca"], ["method=pullback", "method.rank=1", "method.iterations=1"]])
def test_evaluate_judges_what_has_no_texts_by_those_of_the_attribute(discover, scripts, options):
    method = options[0].removeprefix("method=")
    folder, _ = succeed(discover, f"judged-{method}", *options, "method.num_components=1")
    path = folder / f"{method}_1.safetensors"
    options = (*scripts.tiny(discover.outputs), *FEW[:2], f"direction={path}", "attr=beard", "strengths=1")
    outcome = scripts.run("evaluate.py", *options, f"hydra.run.dir={discover.outputs}/evaluate")
    assert outcome.code == 0, outcome.text
    metrics = json.loads((discover.outputs / "evaluate/metrics.json").read_text())["1"]
    assert {"success", "preservation", "directional_cosine"} <= set(metrics)


def test_a_free_delta_h_is_trained_and_shown(discover):
    free = ("method=delta_h", "attr=beard", "method.passes=1", "method.batch_size=2", "method.cache_pred_x0_from=null")
    folder, report = succeed(discover, "delta_h", *free)
    assert list(report) == ["beard"]
    assert report["beard"]["metrics"]["success"] >= 0
    assert (folder / "grid.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method.num_components=0"], "method.num_components must be a whole number, 1 or more, got 0"),
        (["method.num_components=6"], "6 images have at most 5 components, got method.num_components=6"),
        (["method.strengths=[]"], "method.strengths must be finite numbers, such as method.strengths=[0.5,1], got []"),
        (["method.strengths=[nan]"], "method.strengths=[0.5,1], got [nan]"),
        (["method.judged=-1"], "method.judged must be one number above 0, got -1"),
        (["sheet_images=0"], "sheet_images must be a whole number, 1 or more, got 0"),
        (["method=f_t"], "discover.py takes method=pca, labels, pullback or delta_h; one of kind f_t_ddpm"),
        (["method=delta_h"], "trained towards texts: add attr=beard"),
        (["method=labels", "method.label=hat"], "label 'hat' does not exist"),
        (["method=labels", "method.positive=pink"], "label 'glasses' has no class 'pink'"),
        (["method=labels", "method.positive=no"], "must be two classes, both are 'no'"),
        (
            ["method=labels", "method.label=hair_length", "method.positive=bald", "method.negative=short"],
            "hair_length needs two images or more of each class",
        ),
        (["method=labels", "method.csv=/nowhere.csv"], "the file of classes /nowhere.csv does not exist"),
        (["method=labels", "method.penalty=0"], "method.penalty must be a finite number above 0, got 0"),
        (["method=labels", "latents=random"], "have no labels: name a file of lines KEY,CLASS"),
        (["method=pullback", "method.t=0"], "method.t must be a whole number, 1 to 999, got 0"),
        (["method=pullback", "method.t=1000"], "method.t must be a whole number, 1 to 999, got 1000"),
        (["method=pullback", "method.rank=2"], "method.num_components must be method.rank = 2 or less, got 4"),
        (["method=pullback", "method.image=me"], "method.image must be the key of a val image, such as 'val-000000'"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_named(discover, overrides, message):
    folder, outcome = discover("refused", *overrides)
    assert outcome.code == 1, outcome.text
    assert message in outcome.text.partition("[ERROR] - ")[2]
    assert not list(folder.glob("*.safetensors"))


def test_train_refuses_what_discover_finds(scripts, tmp_path):
    outcome = scripts.run("train.py", "method=pca", f"paths.outputs={tmp_path}", f"hydra.run.dir={tmp_path}/run")
    assert outcome.code == 1
    assert "method=pca finds directions without training: python discover.py does that" in outcome.text
