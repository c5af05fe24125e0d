"""A tiny network, directions for it and photos, as the library's users have them."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import asyrp_lit
from asyrp_lit import AsyrpPipeline
from asyrp_lit.hspace.direction import DirectionInfo, direction_arguments, make_direction, save_direction

#: Of the directions here.
STEPS = 4


@pytest.fixture(scope="session")
def model(unet):
    return asyrp_lit.load_model(unet)


@pytest.fixture(scope="session")
def files(model, tmp_path_factory):
    """Direction files by name; ``boosted`` has a boosting phase, ``stranger`` is for another network."""
    folder, found = tmp_path_factory.mktemp("directions"), {}
    for seed, (name, t_boost) in enumerate([("smiling", 0), ("glasses", 0), ("boosted", 334), ("stranger", 0)]):
        torch.manual_seed(seed)
        arguments = direction_arguments("f_t_ddpm", model.h_channels, model.h_size, model.temb_channels, ())
        texts, fingerprint = ("person", f"{name} person"), model.fingerprint()
        info = DirectionInfo("f_t_ddpm", arguments, name, *texts, model.name, fingerprint, 333, t_boost, STEPS)
        if name == "stranger":
            info = replace(info, base_model="other", base_fingerprint="0" * 12)
        found[name] = folder / f"{name}.safetensors"
        save_direction(found[name], make_direction("f_t_ddpm", **arguments), info)
    return found


@pytest.fixture(scope="session")
def photos():
    """Noise of three sizes, as PIL images."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((40, 50), (32, 32), (20, 30))
    return [
        Image.fromarray(torch.randint(256, (height, width, 3), generator=generator).byte().numpy())
        for width, height in sizes
    ]


@pytest.fixture(name="pipe")
def make_pipe(unet, files):
    pipe = AsyrpPipeline.from_model(asyrp_lit.load_model(unet))
    for name in ("smiling", "glasses", "boosted"):
        pipe.add_direction(files[name])
    pipe.set_progress_bar_config(disable=True)
    return pipe
