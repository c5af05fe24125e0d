"""``interval.py`` on eight portraits, four steps and a random network: what it leaves, reuses and survives."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image


def parts(outputs):
    return {path.name: path.stat().st_mtime_ns for path in sorted(outputs.glob("latents/lpips-*/images-*"))}


def test_a_report_has_curves_attributes_and_pictures(measure, tmp_path):
    run, report, text = measure("attributes=[glasses,smiling]")
    assert report["curves"]["timesteps"] == [0, 333, 666]
    for curve in (report["curves"]["pred_x0"], report["curves"]["x_t"]):
        assert {name: len(values) for name, values in curve.items()} == dict.fromkeys(
            ("mean", "lower_quartile", "upper_quartile"), 3
        )
        assert all(low <= high for low, high in zip(curve["lower_quartile"], curve["upper_quartile"], strict=True))
    assert (report["num_images"], list(report["attributes"])) == (4, ["glasses", "smiling"])
    for name, found in report["attributes"].items():
        reached = [
            t
            for t, value in zip((0, 333, 666), report["curves"]["pred_x0"]["mean"], strict=True)
            if value >= found["threshold"]
        ]
        assert found["threshold"] == pytest.approx(0.3 * found["cos_text"], abs=1e-4)
        assert found["t_edit"] == min(reached)
        assert f"{name}  " in text
    assert all(min(Image.open(run / name).size) > 100 for name in ("interval.png", "strip.png"))
    assert list(parts(tmp_path)) == ["images-000000-000001.safetensors", "images-000002-000003.safetensors"]


def test_a_rerun_measures_nothing_and_more_images_only_the_new_ones(measure, tmp_path):
    _, first, text = measure()
    before = parts(tmp_path)
    assert "LPIPS curves" in text
    _, again, text = measure(name="again")
    assert again == first
    assert "LPIPS curves" not in text
    measure("interval.num_images=6", name="more")
    after = parts(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"images-000004-000005.safetensors"}


def test_training_and_the_report_share_their_curves(measure, scripts, tiny, tmp_path):
    same = ("data.train.where={glasses: 'no'}", "inversion_batch_size=4")
    _, report, _ = measure("attributes=[glasses]", *same)
    options = (*same, "method.passes=1", "method=free_global", f"hydra.run.dir={tmp_path}/trained")
    training = [override for override in tiny(tmp_path) if not override.startswith(("strip_", "sweep_"))]
    outcome = scripts.run("train.py", *training, *options)
    assert outcome.code == 0, outcome.text
    assert "LPIPS curves" not in outcome.text
    assert f"t_edit {report['attributes']['glasses']['t_edit']}," in outcome.text


def test_an_attribute_that_is_never_reached_is_reported_beside_the_others(measure):
    never = "{name: never, src_text: face, trg_text: face}"
    _, report, text = measure(f"attributes=[{never},glasses]", "interval.edit_threshold=0.85")
    assert report["attributes"]["never"]["cos_text"] == pytest.approx(1.0)
    assert report["attributes"]["never"]["t_edit"] is None
    assert report["attributes"]["glasses"]["t_edit"] is not None
    assert "P_t never reaches the threshold (at most" in text


def test_an_attribute_of_ones_own_comes_first(measure):
    own = ("attr=custom", "attr.name=red", "attr.src_text=person with black hair", "attr.trg_text=person with red hair")
    _, report, text = measure(*own, "attributes=[smiling]")
    assert list(report["attributes"]) == ["red", "smiling"]
    assert "the small CLIP has not learnt the words of red" in text


def test_two_steps_are_enough(measure, direction):
    sweep = ("sweep=true", f"direction={direction()}", "t_edits=[0]")
    run, report, _ = measure(
        "method.num_steps=2", *sweep, "interval.edit_threshold=0.0", "interval.boost_threshold=0.0"
    )
    assert report["curves"]["timesteps"] == [0]
    assert {found["t_edit"] for found in report["attributes"].values()} == {0}
    assert {"interval.png", "strip.png"} < {path.name for path in run.glob("*.png")}


def test_names_that_look_like_formulas_or_are_no_text_stand_beside_their_images(scripts, direction, tmp_path):
    folder, run = tmp_path / "b$_$", tmp_path / "run"
    folder.mkdir()
    for name in ("caf\udce9.png", "price$5_and_$10.png"):
        Image.new("RGB", (32, 32), "teal").save(folder / name)
    places = ("data=folder", f"data.train.folder='{folder}'", f"data.val.folder='{folder}'", f"hydra.run.dir={run}")
    sweep = ("sweep=true", f"direction={direction()}", "t_edits=[333]", "t_boosts=[0]", "interval.edit_threshold=0.3")
    outcome = scripts.run("interval.py", *scripts.tiny(tmp_path), *places, *sweep, "strip_columns=2")
    assert outcome.code == 0, outcome.text
    sweeps = {"sweep-00-caf%dce9.png~507c1cbe909ea2a0.png", "sweep-01-price%245_and_%2410.png.png"}
    assert {path.name for path in run.glob("*.png")} == {"interval.png", "strip.png", *sweeps}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attributes=[smilling]"], "attribute 'smilling' has no file in conf/attr; did you mean smiling"),
        (["attributes=[]"], "attributes must name one attribute or more"),
        (["attributes=smiling"], "attributes must be a list of names"),
        (["attributes=[{name: x, src_text: face}]"], "attr.trg_text must be a text"),
        (["interval.num_images=0"], "interval.num_images must be a whole number, 1 or more, got 0"),
        (["interval.num_images=many"], "interval.num_images must be a whole number, 1 or more, got 'many'"),
        (["strip_images=0"], "strip_images must be a whole number, 1 or more, got 0"),
        (["strip_columns=1"], "strip_columns must be a whole number, 2 or more, got 1"),
        (["interval=all", "~interval.edit_threshold"], "choose interval=lpips or interval=measured"),
        (["sweep=yes please"], "sweep must be true or false, got 'yes please'"),
        (["sweep=true"], "sweep=true needs direction="),
        (["direction={direction}"], "direction is for sweep=true only"),
        (["sweep=true", "direction=/nowhere.safetensors"], "there is no direction file /nowhere.safetensors, nor an"),
        (["sweep=true", "direction=glasses"], "glasses.safetensors was trained on ddpmpp_avatars"),  # of the package
        (["sweep=true", "direction={foreign}"], "Choose the base model custom"),
        (["sweep=true", "direction=[smiling,glasses]"], "sweep=true needs direction="),
        (
            ["sweep=true", "direction={pullback}"],
            "(pullback) moves x_t at one timestep, t = 1000, so there is no t_edit",
        ),
        (["cos_text=much"], "cos_text must be a number, -1 to 1, got 'much'"),
        (["sweep=true", "direction={direction}", "t_edits=[]"], "t_edits must be null or a list of timesteps"),
        (["sweep=true", "direction={direction}", "t_edits=[a]"], "t_edits must be whole numbers, 0 to 1000, got 'a'"),
        (["sweep=true", "direction={direction}", "t_edits=[1000]"], "t_edits: no step edits with 1000"),
        (["sweep=true", "direction={direction}", "t_boosts=[-1]"], "t_boosts must be whole numbers, 0 to 1000, got -1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_input_ends_with_one_message(scripts, tiny, direction, tmp_path, overrides, message):
    files = {
        "direction": direction(),
        "foreign": direction("0" * 12),
        "pullback": direction(kind="pullback"),
    }
    given = [
        override.format(**files) if override.startswith("direction=") else override
        for override in overrides
        if override != "~interval.edit_threshold"
    ]
    common = tiny(tmp_path)
    if len(given) < len(overrides):
        common = tuple(override for override in common if not override.startswith("interval."))
    outcome = scripts.run("interval.py", *common, f"hydra.run.dir={tmp_path}/run", *given)
    assert outcome.code == 1
    assert message in outcome.text
    assert outcome.text.count("[ERROR]") == 1
    assert "Traceback" not in outcome.text
    assert "LPIPS curves" not in outcome.text  # before any work
    assert not (tmp_path / "run/interval.json").exists()


def cells(outputs):
    return {path.name: path.stat().st_mtime_ns for path in sorted(outputs.glob("latents/sweep-*/[!.]*"))}


def kill_when(begun, command):
    """Run a script in its own process until ``begun()`` and kill it."""
    process = subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not begun():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_measurement_goes_on_to_the_same_numbers(measure, scripts, tiny, tmp_path):
    killed, long = tmp_path / "killed", ("method.num_steps=8", "interval.num_images=8", "attributes=[glasses]")
    command = [sys.executable, str(scripts.root / "interval.py"), *tiny(killed), *long]
    kill_when(lambda: parts(killed), [*command, "inversion_batch_size=1", f"hydra.run.dir={killed}/first"])
    before = parts(killed)
    assert 0 < len(before) < 8
    _, resumed, _ = measure(*long, "inversion_batch_size=1", outputs=killed, name="second")
    _, whole, _ = measure(*long, "inversion_batch_size=1", outputs=tmp_path / "whole")
    assert resumed == whole
    after = parts(killed)
    assert len(after) == 8
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_numbers(measure, scripts, tiny, direction, tmp_path):
    killed, sweep = tmp_path / "killed", ("sweep=true", f"direction={direction()}", "method.num_steps=12")
    sweep += ("t_edits=[100,200,300,400,500,600,700,800]", "t_boosts=[0,100,1000]")
    command = [sys.executable, str(scripts.root / "interval.py"), *tiny(killed), *sweep]
    kill_when(lambda: len(cells(killed)) > 4, [*command, f"hydra.run.dir={killed}/first"])
    before = cells(killed)
    assert len(before) < 2 + 1 + 8 * 3  # x_0, x_T, the reconstruction, the cells
    _, resumed, _ = measure(*sweep, outputs=killed, name="second")
    _, whole, _ = measure(*sweep, outputs=tmp_path / "whole")
    assert resumed == whole
    after = cells(killed)
    assert len(after) == 2 + 1 + 8 * 3
    assert {name: after[name] for name in before} == before
