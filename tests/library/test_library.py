"""The library's functions give the scripts' pictures, whatever the pictures come as."""

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import asyrp_lit
from asyrp_lit.editing.mask import read_mask
from asyrp_lit.editing.plan import edit_latents, make_plan
from asyrp_lit.hspace.direction import save_direction

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture(scope="module")
def directions(model, files):
    return {name: asyrp_lit.load_direction(files[name], model) for name in ("smiling", "glasses", "boosted")}


@pytest.fixture(scope="module")
def latents(model, photos):
    return asyrp_lit.invert(model, photos, num_steps=4)


def test_importing_the_package_loads_no_network_library():
    code = "import sys, asyrp_lit; print([m for m in ('torch', 'diffusers', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_exported_name_is_there_and_listed():
    assert all(getattr(asyrp_lit, name) is not None for name in asyrp_lit.__all__)
    assert set(asyrp_lit.__all__) <= set(dir(asyrp_lit))
    with pytest.raises(AttributeError, match="no attribute 'upside_down'"):
        asyrp_lit.upside_down  # noqa: B018


@pytest.fixture(name="script")
def run_edit(scripts, unet, tmp_path):
    """``edit.py`` on the tiny network; the pixels that it writes by image and column."""

    def run(*overrides):
        network = (*scripts.tiny(tmp_path), f"model.weights={unet}")
        places = (f"hydra.run.dir={tmp_path / 'run'}", f"out={tmp_path / 'out'}")
        outcome = scripts.run("edit.py", *network, *places, *overrides)
        assert outcome.code == 0, outcome.text
        return lambda key, column: np.asarray(Image.open(tmp_path / "out" / "images" / key / f"{column}.png"))

    return run


@pytest.mark.parametrize("name", ["smiling", "boosted"])
def test_an_edit_is_the_picture_of_the_script(script, model, files, photos, tmp_path, name):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(photos):
        photo.save(folder / f"{number}.png")
    read = script(f"direction={files[name]}", f"images={folder}", "strength=[-1,2]", "seed=7")
    # With the reconstruction, which the script puts first: float32 rounds by the make of a batch.
    edits = asyrp_lit.to_pil(asyrp_lit.edit(model, photos, files[name], [0, -1, 2], seed=7))[3:]
    for row, strength in enumerate((-1, 2)):
        for number in range(3):
            written = read(f"{number}.png", f"strength_{strength}")
            assert np.array_equal(written, np.asarray(edits[3 * row + number]))
            assert np.abs(written - read(f"{number}.png", "reconstruction").astype(int)).mean() > 10


def test_white_on_a_transparent_layer_is_a_mask_of_white_on_black(model):
    layer = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 64, 32))
    mask = read_mask(layer, model, "h")[0, 0]
    assert mask[: len(mask) // 4].min() == 1
    assert mask[-len(mask) // 4 :].max() == 0


def test_a_mask_gives_the_picture_of_the_script(script, model, files, photos, tmp_path):
    half = Image.new("L", (90, 40), 255)
    half.paste(0, (0, 0, 45, 40))
    half.save(tmp_path / "half.png")
    photos[0].save(tmp_path / "a.png")
    read = script(f"direction={files['smiling']}", f"images={tmp_path / 'a.png'}", f"where={tmp_path / 'half.png'}")
    latents, strengths = asyrp_lit.invert(model, photos[0], 4), [0, -1, 0.5, 1, 1.5]
    for where in (half, tmp_path / "half.png"):
        edits = asyrp_lit.edit(model, latents, files["smiling"], strengths, where=where)
        assert np.array_equal(read("a.png", "strength_1"), np.asarray(asyrp_lit.to_pil(edits)[3]))
    mask = read_mask(half, model, "h")
    assert torch.equal(asyrp_lit.edit(model, latents, files["smiling"], strengths, mask=mask), edits)
    assert not torch.equal(asyrp_lit.edit(model, latents, files["smiling"], strengths), edits)


def test_drawn_latents_are_those_of_the_script(script, model, files):
    read = script(f"direction={files['boosted']}", "images=random", "n=2", "strength=1", "seed=3")
    latents = asyrp_lit.draw_latents(model, 2, num_steps=4, seed=3)
    edits = asyrp_lit.to_pil(asyrp_lit.edit(model, latents, files["boosted"], [0, 1], seed=3))
    assert np.array_equal(read("edit-000001", "strength_1"), np.asarray(edits[3]))


@pytest.mark.parametrize("kind", ["mean", "global"])
def test_an_average_is_that_of_the_script_and_has_a_file_of_its_own(script, model, files, photos, tmp_path, kind):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(photos):
        photo.save(folder / f"{number}.png")
    few = ("average_images=3", "data=folder", f"data.train.folder={folder}", f"data.val.folder={folder}")
    read = script(f"direction={files['smiling']}", f"images={folder}", "strength=2", f"kind={kind}", *few)
    averaged = asyrp_lit.average(model, photos, files["smiling"], kind)
    edits = asyrp_lit.to_pil(asyrp_lit.edit(model, photos, averaged, 2))
    for number in range(3):
        written = read(f"{number}.png", "strength_2")
        assert np.abs(written.astype(int) - np.asarray(edits[number])).mean() < 0.1
        assert np.abs(written - read(f"{number}.png", "reconstruction").astype(int)).mean() > 2
    save_direction(tmp_path / "averaged.safetensors", averaged.direction, averaged.info)
    again = asyrp_lit.edit(model, photos, tmp_path / "averaged.safetensors", 2)
    assert torch.equal(again, asyrp_lit.edit(model, photos, averaged, 2))


def test_an_average_of_an_unknown_kind_is_refused(model, directions, latents):
    with pytest.raises(ValueError, match="kind must be one of mean, global, got 'median'"):
        asyrp_lit.average(model, latents, directions["smiling"], "median")


def test_an_average_over_latents_of_other_steps_is_refused(model, directions, photos):
    other = asyrp_lit.invert(model, photos, num_steps=3)
    with pytest.raises(ValueError, match="direction is of 4 steps, and these latents took 3: invert with num_steps=4"):
        asyrp_lit.average(model, other, directions["smiling"])


def test_several_directions_are_the_plan_that_the_scripts_make(model, directions, latents):
    both = [directions["smiling"], directions["glasses"]]
    plan = make_plan([(each.direction, each.info) for each in both], 4)
    wanted = edit_latents(model, latents.x_T, plan, [(1.0, 0.7)])
    assert torch.equal(asyrp_lit.edit(model, latents, both, [1, 0.7]), wanted)


def test_strength_0_is_the_reconstruction(model, directions, latents, photos):
    edits = asyrp_lit.edit(model, latents, directions["smiling"], 0)
    assert_close(edits, asyrp_lit.reconstruct(model, latents), atol=1e-4, rtol=0)
    assert torch.equal(asyrp_lit.reconstruct(model, photos, num_steps=4), asyrp_lit.reconstruct(model, latents))


def test_strengths_are_blocks_whatever_the_batch_size(model, directions, latents):
    at_once = asyrp_lit.edit(model, latents, directions["boosted"], [-1, 0.5])
    for row, strength in enumerate((-1, 0.5)):
        alone = asyrp_lit.edit(model, latents, directions["boosted"], strength, batch_size=1)
        assert_close(at_once[3 * row : 3 * row + 3], alone, atol=1e-3, rtol=1e-4)


def test_latents_keep_their_number_of_steps(model, directions, photos):
    latents = asyrp_lit.invert(model, photos[0], num_steps=6)
    edit = asyrp_lit.edit(model, latents, directions["smiling"])
    assert torch.equal(edit, asyrp_lit.edit(model, photos[0], directions["smiling"], num_steps=6))
    with pytest.raises(ValueError, match="these latents took 6 steps, num_steps is 4"):
        asyrp_lit.edit(model, latents, directions["smiling"], num_steps=4)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "there is no image"),
        ("/no/such.png", FileNotFoundError, r"such\.png"),
        (torch.zeros(1, 3, 16, 16), ValueError, r"must be \(B, 3, 32, 32\) for this model, got \(1, 3, 16, 16\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), ValueError, "must be floats"),
        (torch.full((1, 3, 32, 32), 255.0), ValueError, "got 255 to 255"),
        (torch.full((1, 3, 32, 32), torch.nan), ValueError, "must be finite"),
        (torch.zeros(0, 3, 32, 32), ValueError, "must be"),
        (Image.new("F", (8, 8)), ValueError, "image that was given cannot be read"),
        (Image.new("RGB", (0, 5)), ValueError, "it has no pixels, its size is 0 x 5"),
        (GOLDENS, ValueError, "goldens is a folder: give a file, or a list of files"),
    ],
)
def test_what_is_no_image_is_refused(model, images, error, message):
    with pytest.raises(error, match=message):
        asyrp_lit.invert(model, images, num_steps=4)


def test_numbers_of_numpy_and_torch_are_numbers(model, directions, latents):
    options = {"num_steps": np.int64(4), "seed": np.arange(3), "batch_size": np.int64(2)}
    edits = asyrp_lit.edit(model, latents, directions["boosted"], np.linspace(0.5, 1, 2), **options)
    wanted = asyrp_lit.edit(model, latents, directions["boosted"], [0.5, 1], num_steps=4, seed=[0, 1, 2], batch_size=2)
    assert torch.equal(edits, wanted)
    drawn = asyrp_lit.draw_latents(model, np.int64(2), torch.tensor(4), seed=np.int64(3))
    assert torch.equal(drawn.x_T, asyrp_lit.draw_latents(model, 2, 4, seed=3).x_T)


def test_arguments_of_a_wrong_type_are_named(unet, files):
    """In a process of its own: tests check annotations before the package sees a value."""
    code = f"""
        import asyrp_lit
        model = asyrp_lit.load_model({str(unet)!r})
        latents = asyrp_lit.draw_latents(model, 1, 4)
        def edit(images=latents, directions={str(files["smiling"])!r}, **options):
            asyrp_lit.edit(model, images, directions, **options)
        calls = [
            lambda: edit(images=None), lambda: edit(directions=None), lambda: edit(seed="3"), lambda: edit(seed=[1.5]),
            lambda: asyrp_lit.invert(model, None, 8.0), lambda: edit(num_steps=4.0),
            lambda: edit(mask="a.png"), lambda: edit(where=5)]
        for call in calls:
            try:
                call()
            except (TypeError, ValueError) as error:
                print(error)
    """
    shown = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [
        "images must be PIL images and paths, or tensors, got NoneType",
        "directions must be loaded ones, files or names, got NoneType",
        "seed must be a whole number, or one an image, got '3'",
        "seed must be a whole number, or one an image, got 1.5",
        "num_steps must be a whole number, 2 or more, got 8.0",
        "num_steps must be a whole number, 2 or more, got 4.0",
        "mask must be a tensor (1, 1, 16, 16), got str; where= takes a picture or path",
        "where must be a PIL image or a path, got int; mask= takes a tensor",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": float("nan")}, "strength must be finite numbers"),
        ({"strength": [[1, 2]]}, "strength must be finite numbers"),
        ({"t_edit": 1000}, "no step edits"),
        ({"process": "both"}, "process must be one of"),
        ({"seed": [1]}, "one for each of the 3 images, got 1"),
        ({"directions": []}, "one direction or more"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        (
            {"mask": torch.ones(1, 1, 64, 64)},
            r"mask must be \(1, 1, 16, 16\), one number .* got \(1, 1, 64, 64\); where=",
        ),
        ({"mask": torch.full((1, 1, 16, 16), 7.0)}, r"mask must be in \[0, 1\] and not 0 everywhere, got 7 to 7"),
        ({"mask": torch.zeros(1, 1, 16, 16)}, "not 0 everywhere, got 0 to 0"),
        ({"where": Image.new("L", (5, 5))}, "the mask that was given is black everywhere"),
        ({"where": Image.new("L", (5, 5), 1)}, r"nearly so, its brightest place has 0\.004 of white"),
        ({"where": Image.new("RGBA", (5, 5), (255, 255, 255, 0))}, "black everywhere"),
        ({"where": Image.new("L", (5, 5), 255), "mask": torch.ones(1, 1, 16, 16)}, "give one of them"),
    ],
)
def test_an_impossible_edit_is_refused(model, directions, latents, options, message):
    with pytest.raises(ValueError, match=message):
        asyrp_lit.edit(model, latents, **{"directions": directions["smiling"], **options})


def test_a_direction_of_another_model_is_refused(model, files, directions):
    with pytest.raises(ValueError, match=r"was trained on other .* and does not fit"):
        asyrp_lit.load_direction(files["stranger"], model)
    other = asyrp_lit.load_model("ddpmpp_avatars")
    drawn = asyrp_lit.draw_latents(other, 1, num_steps=4)
    with pytest.raises(ValueError, match=r"direction smiling was trained on .* does not fit ddpmpp_avatars"):
        asyrp_lit.edit(other, drawn, directions["smiling"])


def test_a_checkpoint_in_an_original_key_style_is_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYRP_CACHE", str(tmp_path / "cache"))
    tensors = load_file(GOLDENS / "ddpm.safetensors")
    save_file(
        {key[6:]: value for key, value in tensors.items() if key.startswith("model.")}, tmp_path / "a.safetensors"
    )
    size = json.loads((GOLDENS / "ddpm.json").read_text())["constructor"]["image_size"]
    model = asyrp_lit.load_model(tmp_path / "a.safetensors", image_size=size, norm_eps=1e-6)
    assert (model.name, model.image_size) == ("a", size)
    assert (tmp_path / "cache").is_dir()


def test_a_model_is_found_or_the_message_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nor an embedded base model of that name \(ddpmpp_avatars\)"):
        asyrp_lit.load_model("celeba")
    (tmp_path / "a.pt").touch()
    with pytest.raises(ValueError, match="give image_size="):
        asyrp_lit.load_model(tmp_path / "a.pt")
