"""What the tests of ``edit.py`` share: direction files for a tiny network, photos, and a way to run it."""

import numpy as np
import pytest
import torch
from PIL import Image

from asyrp_lit.hspace.direction import (
    DirectionInfo,
    direction_arguments,
    make_direction,
    save_direction,
)
from asyrp_lit.models.registry import load_folder

METRICS = {"edit_lpips", "directional_cosine", "oracle_score", "success", "preservation"}


@pytest.fixture(scope="module")
def files(unet, tmp_path_factory):
    """Direction files for the tiny network, by name."""
    folder = tmp_path_factory.mktemp("directions")
    model = load_folder("custom", unet)
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
def run_edit(scripts, unet, tmp_path):
    def run(*overrides, out="out"):
        network = (*scripts.tiny(tmp_path), f"model.weights={unet}")
        places = (f"hydra.run.dir={tmp_path / 'run'}", f"out={tmp_path / out}")
        outcome = scripts.run("edit.py", *network, *places, *overrides)
        assert "Traceback" not in outcome.text, outcome.text[-6000:]
        return outcome, tmp_path / out

    return run


@pytest.fixture(name="read")
def give_read():
    """Pixels of a picture, as integers that can be subtracted."""
    return lambda path: np.asarray(Image.open(path)).astype(int)
