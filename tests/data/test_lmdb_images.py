"""LMDBs as LSUN and as StyleMapGAN's script make them; everything else is named."""

import logging
import os
import pickle
import shutil
import time

import pytest
import torch

from asyrp_lit.data.batches import load_batches
from asyrp_lit.data.decode import load_image
from asyrp_lit.data.lmdb_images import ImageLMDB
from asyrp_lit.data.lmdb_reader import read_lmdb
from asyrp_lit.data.source import ImageSource


def grey_of(item):
    return round(float((item.x_0.mean() + 1) * 127.5))


def test_lsun_images_come_in_the_order_of_the_lmdb(lsun, picture):
    source = ImageLMDB(lsun, 8)
    assert isinstance(source, ImageSource)
    assert (source.name, len(source)) == ("church_outdoor_train_lmdb", 5)
    assert [int(key, 16) for key in source.keys] == [1, 2, 4, 7, 9]
    assert torch.equal(source[3].x_0, load_image(picture(7), 8))
    assert source[3].labels.shape == (0,)


def test_start_and_limit_cut_an_lmdb(lsun):
    assert [int(key, 16) for key in ImageLMDB(lsun, 8, start=1, limit=2).keys] == [2, 4]
    with pytest.raises(ValueError, match=r"has 5 images, start=5 leaves none; lower start"):
        ImageLMDB(lsun, 8, start=5, limit=2)


def test_stylemapgan_images_are_those_of_the_models_size_or_of_another(stylemapgan):
    small, large = ImageLMDB(stylemapgan, 16), ImageLMDB(stylemapgan, 16, resolution=32)
    assert small.keys[0] == "16-00000"
    assert (small.keys[10], large.keys[10]) == ("16-00010", "32-00010")
    assert large[10].x_0.shape == (3, 16, 16)
    assert grey_of(small[10]) == grey_of(large[10]) == 10
    assert small.fingerprint() != large.fingerprint()


def test_a_resolution_that_is_not_there_is_named(stylemapgan):
    with pytest.raises(ValueError, match=r"has images of 16, 32 px, none of 256 px: take data\.resolution=32"):
        ImageLMDB(stylemapgan, 256)


def test_a_number_without_an_image_is_named_when_it_is_read_or_left_out(stylemapgan, write_lmdb, picture, caplog):
    write_lmdb(stylemapgan, {b"length": b"12"})
    with pytest.raises(ValueError, match="has no key 16-00011, although its length says so"):
        ImageLMDB(stylemapgan, 16)[11]
    with caplog.at_level(logging.WARNING):
        assert len(ImageLMDB(stylemapgan, 16, on_bad_image="skip")) == 11
    assert "left out 1 of 12 images" in caplog.text


def test_a_broken_image_is_named_with_its_key(lsun, write_lmdb):
    write_lmdb(lsun, {b"%040x" % 4: b"not a picture"})
    source = ImageLMDB(lsun, 8)
    with pytest.raises(ValueError, match=r"image 0{39}4 of LMDB .*_lmdb cannot be read"):
        source[2]
    assert len(ImageLMDB(lsun, 8, on_bad_image="skip")) == 4


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({b"a": b"1", b"b": b"2"}, r"first values are no images; it has 2 entries, the first keys are a, b; expected"),
        ({}, r"the first values are no images; it has 0 entries; expected are encoded images under any keys \(LSUN"),
        ({b"length": b"\x80\x03K\n.", b"0": b"x"}, r"length holds b'.x80.*', which is not the number of images"),
        ({b"length": b"2", b"image-000": b"x"}, "beside length there is no key such as 256-00000"),
    ],
    ids=["numbers", "empty", "pickled", "other_keys"],
)
def test_an_lmdb_of_another_layout_is_described(tmp_path, write_lmdb, entries, message):
    with pytest.raises(ValueError, match=rf"LMDB .* is of another layout: .*{message}"):
        ImageLMDB(write_lmdb(tmp_path / "other", entries), 16)


def test_images_beside_labels_are_another_layout(tmp_path, write_lmdb, picture):
    entries = {b"num-samples": b"9"}
    for number in range(9):
        entries |= {b"image-%09d" % number: picture(number), b"label-%09d" % number: b"a word"}
    message = r"of another layout: the last values are no images; it has 19 entries, the first keys are image-000000000"
    with pytest.raises(ValueError, match=message):
        ImageLMDB(write_lmdb(tmp_path / "words", entries), 16)


def test_a_folder_without_data_mdb_says_what_it_has(tmp_path):
    (tmp_path / "lock.mdb").touch()
    with pytest.raises(FileNotFoundError, match=r"is no LMDB: it has no file data.mdb but lock.mdb"):
        ImageLMDB(tmp_path, 16)
    with pytest.raises(FileNotFoundError, match=r"LMDB .*nowhere does not exist"):
        ImageLMDB(tmp_path / "nowhere", 16)


@pytest.mark.parametrize("content", [b"", b"hello" * 2000], ids=["empty", "text"])
def test_a_file_that_is_only_named_data_mdb_is_refused(tmp_path, content):
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data.mdb cannot be opened as an LMDB .*it has {len(content)} bytes"):
        ImageLMDB(tmp_path, 16)


def test_a_truncated_file_is_refused_before_a_read_could_kill_the_process(lsun):
    os.truncate(lsun / "data.mdb", 8192)
    with pytest.raises(ValueError, match=r"data.mdb is truncated: it has 8192 of \d+ bytes"):
        ImageLMDB(lsun, 8)


def test_the_fingerprint_follows_the_images_in_use_only(lsun, write_lmdb, picture):
    changed = write_lmdb(shutil.copytree(lsun, lsun.with_name("changed")), {b"%040x" % 7: picture(8)})
    before, first = ImageLMDB(lsun, 8).fingerprint(), ImageLMDB(lsun, 8, limit=2).fingerprint()
    (changed / "data.mdb").replace(lsun / "data.mdb")  # while it is open here
    assert ImageLMDB(lsun, 8).fingerprint() != before
    assert ImageLMDB(lsun, 8, limit=2).fingerprint() == first
    assert ImageLMDB(lsun, 4, limit=2).fingerprint() != first


def test_train_and_val_may_be_of_one_lmdb_and_the_file_itself_is_a_name_for_it(lsun):
    train, val = ImageLMDB(lsun, 8, limit=3), ImageLMDB(lsun / "data.mdb", 8, start=3)
    assert [grey_of(source[0]) for source in (train, val, train)] == [1, 7, 1]
    assert train.path == val.path


def test_it_survives_pickling_fork_and_worker_processes(lsun):
    source = ImageLMDB(lsun, 8)
    first = source[0].x_0
    assert torch.equal(pickle.loads(pickle.dumps(source))[0].x_0, first)
    plan = [[0, 1], [2], [3, 4]]
    alone, helped = (list(load_batches(source, plan, workers)) for workers in (0, 2))
    assert all(torch.equal(one["x_0"], other["x_0"]) for one, other in zip(alone, helped, strict=True))
    assert torch.equal(source[0].x_0, first)


def test_a_read_only_folder_is_enough_and_no_lock_file_is_made(lsun, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o755)
    shutil.copy(lsun / "data.mdb", copy)
    (copy / "data.mdb").chmod(0o444)
    copy.chmod(0o555)
    assert len(ImageLMDB(copy, 8)) == 5
    assert [path.name for path in copy.iterdir()] == ["data.mdb"]


def test_keys_that_are_no_text_are_read(tmp_path, write_lmdb, picture):
    source = ImageLMDB(write_lmdb(tmp_path / "odd", {b"\xff\x00": picture(5)}), 8)
    assert grey_of(source[0]) == 5
    assert len(source.fingerprint()) == 16


def test_listing_many_entries_reads_no_image(tmp_path, write_lmdb, picture):
    blob = picture(1) + bytes(20_000)
    folder = write_lmdb(tmp_path / "many", {b"%06d" % number: blob for number in range(400)})
    with read_lmdb(folder):  # opened before the clock starts
        start = time.perf_counter()
    assert len(ImageLMDB(folder, 8, start=300, limit=50)) == 50
    assert time.perf_counter() - start < 1
