"""``interval.py sweep=true`` on four portraits, four steps and a random network: its cells, and what it reuses."""

import re

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from asyrp_lit.data.latents import to_uint8
from asyrp_lit.models.hspace_unet import HSpaceUNet

METRICS = {"directional_cosine", "edit_lpips", "success", "preservation"}
NO_TEXTS = {"src_text": "", "trg_text": ""}


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


@pytest.mark.parametrize("name", ["glasses", "pca_1"])
def test_a_sweep_of_a_direction_without_texts_is_judged_without_clip(measure, direction, name):
    textless = direction(attribute=name, **NO_TEXTS)
    run, report, text = measure("sweep=true", f"direction={textless}", "t_boosts=[0,1000]", "method.num_steps=8")
    cells = report["sweep"]["cells"]
    oracle = {"oracle_score", "success", "preservation", "reconstruction_preservation"} if name == "glasses" else set()
    reconstruction = {"reconstruction_lpips", "reconstruction_psnr"}
    assert all(set(cell) == {"t_edit", "t_boost", "edit_lpips"} | reconstruction | oracle for cell in cells)
    assert "directional_cosine" not in text
    timesteps, curve = report["curves"]["timesteps"], report["curves"]["pred_x0"]["mean"]
    proposed = {
        next((t for t, y in zip(timesteps, curve, strict=True) if y >= k * 0.3 * 0.5), 333) for k in (0.5, 1, 3, 9)
    }
    assert {cell["t_edit"] for cell in cells} == {333, *proposed}
    assert len(list(run.glob("sweep-*.png"))) == 2


def test_the_boosting_noise_of_a_sweep_is_that_of_an_edit(measure, direction, scripts, unet, tmp_path):
    fingerprint = HSpaceUNet(UNet2DModel.from_pretrained(unet), "custom").fingerprint()
    common = (f"model.weights={unet}", f"direction={direction(fingerprint, where={'glasses': ['no']})}", "seed=3")
    _, report, _ = measure(*common, "sweep=true", "t_edits=[333]", "t_boosts=[700]")
    (path,) = tmp_path.glob("latents/sweep-*/t_edit-0333-t_boost-0700-*.safetensors")
    out = (f"out={tmp_path / 'edit'}", f"hydra.run.dir={tmp_path / 'edited'}")
    outcome = scripts.run("edit.py", *scripts.tiny(tmp_path), *common, *out, "t_edit=333", "t_boost=700", "n=2")
    assert outcome.code == 0, outcome.text
    for key, image in zip(report["sweep"]["images"], load_file(path)["images"], strict=True):
        edited = torch.from_numpy(np.asarray(Image.open(tmp_path / "edit" / "images" / key / "strength_1.png")).copy())
        assert (to_uint8(image[None])[0].permute(1, 2, 0).int() - edited).abs().max() <= 1


def test_a_sweep_of_one_row_has_source_and_reconstruction_beside_it_too(measure, direction):
    sweep, heights = ("sweep=true", f"direction={direction()}", "t_boosts=[0]", "sweep_images=1"), []
    for name, t_edits in (("one", "[333]"), ("two", "[333,666]")):
        run, _, _ = measure(*sweep, f"t_edits={t_edits}", name=name)
        heights.append(Image.open(next(run.glob("sweep-*.png"))).height)
    assert heights[0] == heights[1]


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
