"""``interval.py`` on eight portraits, four steps and a random network: what it leaves, reuses and survives."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction, save_direction
from asyrp_lit.models.hspace_unet import HSpaceUNet

#: Random weights are far from the thresholds of trained ones.
THRESHOLD = "interval.edit_threshold=0.3"
FEW = ("strip_images=2", "strip_columns=3", "sweep_images=2")
METRICS = {"directional_cosine", "edit_lpips", "success", "preservation"}


@pytest.fixture(scope="module")
def tiny(scripts):
    """Overrides for a random network, eight portraits and outputs in a folder."""
    images = ("data.train.num_images=8", "data.val.num_images=4", "interval.num_images=4", "inversion_batch_size=2")
    return lambda outputs: (*scripts.tiny(outputs), *images, THRESHOLD, *FEW)


@pytest.fixture
def measure(scripts, tiny, tmp_path):
    """Run ``interval.py``; returns its run folder, what it wrote into interval.json and what it printed."""

    def measure(*overrides, outputs=tmp_path, name="run"):
        run = outputs / name
        outcome = scripts.run("interval.py", *tiny(outputs), f"hydra.run.dir={run}", *overrides)
        assert outcome.code == 0, outcome.text
        assert "Traceback" not in outcome.text
        return run, json.loads((run / "interval.json").read_text()), outcome.text

    return measure


@pytest.fixture(scope="module")
def direction(scripts, tmp_path_factory):
    """A direction file for the random network: ``direction(FINGERPRINT)``."""
    model = HSpaceUNet(UNet2DModel.from_pretrained(scripts.unet), "custom")

    def write(fingerprint=None, **texts):
        arguments = direction_arguments("global", model.h_channels, model.h_size, model.temb_channels, ())
        module = make_direction("global", **arguments)
        torch.nn.init.normal_(next(module.parameters()), generator=torch.Generator().manual_seed(0))
        known = {"attribute": "glasses", "src_text": "person with no glasses", "trg_text": "person with glasses"}
        network = {"base_model": "custom", "base_fingerprint": fingerprint or model.fingerprint()}
        info = DirectionInfo("global", arguments, **known | texts, **network, t_edit=333, t_boost=0, num_steps=4)
        path = tmp_path_factory.mktemp("direction") / "glasses.safetensors"
        save_direction(path, module, info)
        return path

    return write


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
    training = [override for override in tiny(tmp_path) if override not in FEW]
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


def test_a_sweep_edits_every_image_in_every_cell(measure, direction):
    grid = ("t_edits=[333,666]", "t_boosts=[0,334,1000]")
    run, report, _ = measure("sweep=true", f"direction={direction()}", *grid)
    sweep = report["sweep"]
    cells = [(cell["t_edit"], cell["t_boost"]) for cell in sweep["cells"]]
    assert cells == [(t_edit, t_boost) for t_edit in (333, 666) for t_boost in (0, 334, 1000)]
    assert all(set(cell) >= METRICS for cell in sweep["cells"])
    assert len({cell["edit_lpips"] for cell in sweep["cells"]}) > 1
    assert [path.name for path in sorted(run.glob("sweep-*.png"))] == [
        f"sweep-{number:02d}-{key}.png" for number, key in enumerate(sweep["images"])
    ]


def test_a_sweep_in_bfloat16_edits_too_and_keeps_its_cells_apart(measure, direction):
    sweep = ("sweep=true", f"direction={direction()}", "t_edits=[333]", "t_boosts=[0]")
    _, low, _ = measure(*sweep, "trainer=cpu_bf16", name="low")
    _, full, text = measure(*sweep, name="full")
    assert low["sweep"]["cells"] != full["sweep"]["cells"]
    assert "edit intervals" in text


def test_a_sweep_without_a_grid_has_the_trained_interval_in_it(measure, direction):
    _, report, _ = measure("sweep=true", f"direction={direction()}", "latents=random", "latents.train=4")
    assert (333, 0) in {(cell["t_edit"], cell["t_boost"]) for cell in report["sweep"]["cells"]}
    assert report["sweep"]["trained"] == {"t_edit": 333, "t_boost": 0, "t_start": 1000}
    assert len(report["sweep"]["images"]) == 2


def cells(outputs):
    return {path.name: path.stat().st_mtime_ns for path in sorted(outputs.glob("latents/sweep-*/[!.]*"))}


def test_a_sweep_again_edits_nothing_and_a_larger_grid_only_its_new_cells(measure, direction, tmp_path):
    sweep, passes = ("sweep=true", f"direction={direction()}", "t_edits=[333]"), re.compile(r"edit intervals: *(\d+)%")
    _, first, text = measure(*sweep, "t_boosts=[0]")
    assert passes.findall(text)[0] == "0"
    before = cells(tmp_path)
    _, again, text = measure(*sweep, "t_boosts=[0]", name="again")
    assert again == first
    assert passes.findall(text)[0] == "100"
    _, more, text = measure(*sweep, "t_boosts=[0,1000]", name="more")
    assert passes.findall(text)[0] == "67"  # of two cells and the reconstruction
    assert more["sweep"]["cells"][0] == first["sweep"]["cells"][0]
    after = cells(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1


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
        (["sweep=true", "direction={textless}"], "(global) has no texts, by which CLIP judges the cells of sweep=true"),
        (["sweep=true", "direction={direction}", "t_edits=[]"], "t_edits must be null or a list of timesteps"),
        (["sweep=true", "direction={direction}", "t_edits=[a]"], "t_edits must be whole numbers, 0 to 1000, got 'a'"),
        (["sweep=true", "direction={direction}", "t_edits=[1000]"], "t_edits: no step edits with 1000"),
        (["sweep=true", "direction={direction}", "t_boosts=[-1]"], "t_boosts must be whole numbers, 0 to 1000, got -1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_input_ends_with_one_message(scripts, tiny, direction, tmp_path, overrides, message):
    files = {"direction": direction(), "foreign": direction("0" * 12), "textless": direction(src_text="", trg_text="")}
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
