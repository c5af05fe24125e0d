"""``edit.py where=MASK``: where a direction may move the picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from asyrp_lit.hspace.direction import (
    make_direction,
    read_direction_info,
    save_direction,
)

METRICS = {"edit_lpips", "directional_cosine", "oracle_score", "success", "preservation"}


def test_a_mask_keeps_what_is_black(edit, files, photos, tmp_path, read):
    mask = Image.new("L", (200, 100), 0)
    mask.paste(255, (0, 0, 100, 100))
    mask.save(tmp_path / "mask.png")
    common = (f"direction={files['eps']}", f"images={photos / 'a.jpg'}", "strength=8", "t_edit=0")
    outcome, out = edit(*common, f"where={tmp_path / 'mask.png'}")
    assert outcome.code == 0, outcome.text
    folder = out / "images/a.jpg"
    change = np.abs(read(folder / "strength_8.png") - read(folder / "reconstruction.png")).sum(axis=-1)
    assert change[:, :16].mean() > 2 * change[:, 16:].mean()


def test_another_mask_of_the_same_name_is_refused_and_one_that_moved_is_not(edit, files, photos, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (40, 40), 255).save(mask)
    common = (f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=1")
    assert edit(*common, f"where={mask}")[0].code == 0
    assert edit(*common, f"where={mask.rename(tmp_path / 'moved.png')}")[0].code == 0
    Image.new("L", (40, 40), 99).save(mask)
    outcome, _ = edit(*common, f"where={mask}")
    assert outcome.code == 1
    assert "has the pictures of other settings (mask_sha256: " in outcome.text


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


def test_a_mask_fits_a_direction_that_moves_x(edit, pullback, photos, tmp_path, read):
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
def test_a_white_mask_of_any_size_changes_nothing(edit, files, photos, tmp_path, size, read):
    Image.new("L", size, 255).save(tmp_path / "white.png")
    common = (f"direction={files['glasses']}", f"images={photos / 'a.jpg'}", "strength=3")
    pictures = []
    for name, extra in (("with", [f"where={tmp_path / 'white.png'}"]), ("without", [])):
        outcome, out = edit(*common, *extra, out=name)
        assert outcome.code == 0, outcome.text
        pictures.append(read(out / "images/a.jpg/strength_3.png"))
    assert np.array_equal(*pictures)
