"""The real scripts on images of one's own, and on none at all."""

import json

import numpy as np
import pytest
from PIL import Image

from asyrp_lit.data.latents import LatentStore


@pytest.fixture
def own(tmp_path):
    """Ten images of noise in a folder."""
    folder = tmp_path / "own"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(noise.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def succeed(outcome):
    assert outcome.code == 0, outcome.text
    return outcome.text


def read_lists(run):
    return [(run / f"images-{split}.txt").read_text().splitlines() for split in ("train", "val")]


def test_a_folder_is_split_without_overlap_and_the_split_is_written_down(scripts, own, tmp_path):
    run = tmp_path / "run"
    options = ("data=folder", f"data.train.folder={own}", "data.val_images=3", f"hydra.run.dir={run}")
    text = succeed(scripts.run("invert.py", *scripts.tiny(tmp_path), *options))
    train, val = read_lists(run)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(train + val) == sorted(path.name for path in own.iterdir())
    assert "train images too" not in text
    stores = [LatentStore.open(manifest.parent) for manifest in tmp_path.glob("latents/*/manifest.json")]
    assert len({store.key.source_fingerprint for store in stores}) == 2
    assert sorted(store.item_keys for store in stores) == sorted([train, val])


def test_one_image_is_trained_and_judged_on_with_one_warning(scripts, own, tmp_path):
    run = tmp_path / "run"
    options = ("data=folder", f"data.train.folder={own / '3.png'}", f"hydra.run.dir={run}")
    text = succeed(scripts.run("invert.py", *scripts.tiny(tmp_path), *options))
    assert text.count("1 of 1 val images are train images too") == text.count("WARNING") == 1
    assert read_lists(run) == [["3.png"], ["3.png"]]


def test_a_broken_image_in_a_worker_is_one_message(scripts, own, tmp_path):
    (own / "5.png").write_bytes(b"no picture at all")
    options = ("data=folder", f"data.train.folder={own}", "latents.num_workers=2", "inversion_batch_size=2")
    outcome = scripts.run("invert.py", *scripts.tiny(tmp_path), *options, f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 1
    assert outcome.text.count("[ERROR]") == 1
    assert f"image {own / '5.png'} cannot be read" in outcome.text
    assert "Traceback" not in outcome.text


@pytest.mark.parametrize("interval", ["lpips_avatars", "all"])
def test_training_and_judging_need_no_images_at_all(scripts, tmp_path, interval):
    options = (*scripts.tiny(tmp_path), "latents=random", "latents.train=4", "latents.val=3", f"interval={interval}")
    nothing = ("data=folder", "data.train.folder=/nowhere")
    train, judged = tmp_path / "train", tmp_path / "judged"
    succeed(scripts.run("train.py", *options, *nothing, "method.passes=1", f"hydra.run.dir={train}"))
    assert {"grid.png", "loss.png", "metrics.json"} <= {path.name for path in train.iterdir()}
    assert read_lists(train)[1] == ["val-000000", "val-000001", "val-000002"]
    keys = [LatentStore.open(file.parent).key for file in tmp_path.glob("latents/*/manifest.json")]
    assert {key.source for key in keys} == {"random-train", "random-val"}
    before = sorted(path.stat().st_mtime_ns for path in tmp_path.glob("latents/*/shard-*"))
    direction = (f"direction={train / 'glasses.safetensors'}", "strengths=[1]", f"hydra.run.dir={judged}")
    succeed(scripts.run("evaluate.py", *options, *nothing, *direction))
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.glob("latents/*/shard-*")) == before
    measured = json.loads((judged / "metrics.json").read_text())["1"]
    assert measured == pytest.approx(json.loads((train / "metrics.json").read_text()), abs=1e-3)
    assert measured["reconstruction_psnr"] > 40  # the samples are the reconstruction, but for 8 bits


def test_training_from_stores_alone_is_training_from_their_images(scripts, tmp_path):
    options = (*scripts.tiny(tmp_path), "method.passes=1", "interval=lpips_avatars")
    first, second = tmp_path / "first", tmp_path / "second"
    succeed(scripts.run("train.py", *options, *scripts.portraits, f"hydra.run.dir={first}"))
    stores = {
        LatentStore.open(path.parent).key.source: path.parent for path in tmp_path.glob("latents/*/manifest.json")
    }
    stored = ["latents=stored", *(f"latents.{split}={stores[f'avatars-{split}']}" for split in ("train", "val"))]
    nothing = ("data=folder", "data.train.folder=/nowhere")
    outcome = scripts.run("train.py", *options, *stored, *nothing, f"hydra.run.dir={second}")
    succeed(outcome)
    assert outcome.text.count("reading the latents in") == 2
    assert (second / "glasses.safetensors").read_bytes() == (first / "glasses.safetensors").read_bytes()
    outcome = scripts.run(
        "train.py", *options, *stored, *nothing, "method.num_steps=5", f"hydra.run.dir={tmp_path / 'third'}"
    )
    assert outcome.code == 1
    assert "took 4 steps up to t = 999, this run takes 5 down from 999" in outcome.text.replace("\n", " ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("latents=random", "latents.val=0"), "num_images of random latents must be a whole number, 1 or more, got 0"),
        (("latents.kind=grey",), "latents.kind must be inverted, random or stored, got 'grey'"),
        (("latents.num_workers=-1",), "latents.num_workers must be a whole number, 0 or more, got -1"),
        (("latents=stored", "latents.cache_gib=null"), "finite number of GiB, 0 or more, as in 20 or 0.5 (without a u"),
        (("latents=stored", "latents.cache_gib=10GB"), "latents.cache_gib must be a finite number of GiB, 0 or more"),
        (("latents=stored", "latents.cache_gib=-1"), "(without a unit), got -1"),
        (("latents=stored", "latents.cache_gib=nan"), "(without a unit), got nan"),
        (("latents=stored", "latents.cache_gib=inf"), "(without a unit), got inf"),
        (("latents=stored", "latents.cache_gib=true"), "(without a unit), got True"),
        (("latents=stored", "latents.cache=null"), "latents.cache must be the path of a folder, got None"),
        (("data=hf",), "data=hf needs data.hf.path=NAME"),
        (("data=lsun_church",), "set ASYRP_DATA to the folder of data sets"),
    ],
)
def test_what_cannot_be_is_named(scripts, tmp_path, overrides, message):
    outcome = scripts.run("invert.py", *scripts.tiny(tmp_path), f"hydra.run.dir={tmp_path / 'run'}", *overrides)
    assert outcome.code == 1
    assert message in outcome.text.replace("\n", " ")
    assert "Traceback" not in outcome.text
