"""Data sets of the Hugging Face library, saved to disk and as a folder; nothing is downloaded."""

import sys
from io import BytesIO

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from asyrp_lit.data.hub_images import HubImages, open_hub_split
from asyrp_lit.data.open_images import find_shared


@pytest.fixture
def rows(picture):
    features = Features({"image": Image(), "other": Value("string")})
    images = [{"bytes": picture(value, "png"), "path": None} for value in range(10)]
    return Dataset.from_dict({"image": images, "other": ["x"] * 10}, features=features)


@pytest.fixture
def saved(rows, tmp_path):
    """A data set with two splits, as ``save_to_disk`` leaves it."""
    DatasetDict({"train": rows, "validation": rows.select(range(2))}).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def options(**changed):
    return {"column": "image", "size": 8, "val_images": 0.2, "split_seed": 0} | changed


def test_rows_are_images_numbered_in_order(saved):
    source = HubImages(saved, "train", "image", 8, name="mine", limit=3)
    assert (source.name, source.keys) == ("mine", ["train-000000", "train-000001", "train-000002"])
    assert source[2].x_0.mean() == pytest.approx(2 / 127.5 - 1, abs=1e-6)
    assert source.fingerprint() != HubImages(saved, "validation", "image", 8).fingerprint()


def test_a_data_set_is_split_by_a_seed_or_has_two_splits(saved):
    train, val = (open_hub_split(split, saved, *pair, **options()) for split, pair in SPLITS)
    assert (len(train), len(val)) == (8, 2)
    assert not set(train.keys) & set(val.keys)
    pairs = (("train", ("train", "validation")), ("val", ("validation", "train")))
    train, val = (open_hub_split(split, saved, *pair, **options()) for split, pair in pairs)
    assert (len(train), len(val)) == (10, 2)
    assert not find_shared(train, val)


SPLITS = (("train", ("train", None)), ("val", (None, "train")))


def test_one_saved_split_needs_no_dictionary(rows, tmp_path):
    rows.save_to_disk(tmp_path / "one")
    assert len(HubImages(str(tmp_path / "one"), "train", "image", 8)) == 10


def test_a_folder_of_images_is_a_data_set(save_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = save_pictures(tmp_path / "plain", ["1.png", "2.png", "3.png"])
    source = HubImages(str(folder), "train[:2]", "image", 8)
    assert len(source) == 2
    assert source[1].x_0.mean() == pytest.approx(1 / 127.5 - 1, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": None}, r"needs data\.hf\.path=NAME"),
        ({"path": "/nowhere/at/all"}, r"data set /nowhere/at/all \(split train\) cannot be loaded"),
        ({"column": "other"}, r"no column 'other' of images, images are in image: set data\.hf\.column"),
        ({"rows": "dev"}, r"has the splits train, validation, not 'dev'"),
        ({"rows": None}, "must name a split of the data set"),
    ],
)
def test_what_is_not_there_is_named(saved, changed, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    arguments = {"path": saved, "rows": "train", "other": None} | options() | changed
    with pytest.raises(ValueError, match=message):
        open_hub_split("train", **arguments)


def test_without_the_package_the_extra_is_named(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'asyrp_lit\[hf\]'"):
        HubImages(saved, "train", "image", 8)


def test_an_empty_cell_is_a_bad_image(picture, tmp_path):
    images = [{"bytes": picture(1, "png"), "path": None}, None, {"bytes": BytesIO(b"x").getvalue(), "path": None}]
    Dataset.from_dict({"image": images}, features=Features({"image": Image()})).save_to_disk(tmp_path / "gaps")
    source = HubImages(str(tmp_path / "gaps"), "train", "image", 8)
    with pytest.raises(ValueError, match=r"train-000001 of data set .* is empty"):
        source[1]
    assert HubImages(str(tmp_path / "gaps"), "train", "image", 8, on_bad_image="skip").keys == ["train-000000"]
