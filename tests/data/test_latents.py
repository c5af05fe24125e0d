"""The store on disk: what it holds, and what it does when that is damaged."""

import errno
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from asyrp_lit.data.latents import LatentStore, StoreKey, from_uint8, to_uint8

KEY = StoreKey("tiny", "ab12", "some images", "cd34", image_size=8, num_steps=4, t_0=999, pred_x0_steps=(666, 999))
ITEM_KEYS = [f"image {i}" for i in range(10)]


def make_tensors(indices, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = len(indices)
    return {
        "x_0": torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator),
        "x_T": torch.randn(count, 3, 8, 8, generator=generator),
        "labels": torch.tensor([[i, -1] for i in indices]),
        "pred_x0": torch.randn(count, 2, 3, 8, 8, generator=generator).half(),
    }


def make_store(root, **changes):
    arguments = {"key": KEY, "item_keys": ITEM_KEYS, "shard_size": 4, "num_labels": 2} | changes
    return LatentStore.create(root, **arguments)


def make_full_store(root):
    store = make_store(root)
    for k in range(store.num_shards):
        store.write_shard(k, make_tensors(store.shard_indices(k), seed=k))
    return store


def test_all_256_values_survive_the_round_trip():
    pixels = torch.arange(256, dtype=torch.uint8)
    images = from_uint8(pixels)
    assert images.min() == -1
    assert images.max() == 1
    assert torch.equal(to_uint8(images), pixels)


def test_every_field_changes_the_digest():
    others = {"num_steps": 5, "t_0": 998, "precision": "bf16", "pred_x0_steps": ()}
    changes = [{name: others.get(name, "other" if isinstance(value, str) else 16)} for name, value in vars(KEY).items()]
    digests = {replace(KEY, **({"pred_x0_steps": ()} | change)).digest() for change in changes}
    assert len(digests) == len(changes)


def test_the_folder_name_is_readable_and_safe():
    assert KEY.folder_name() == f"tiny-some_images-4steps-{KEY.digest()}"


def test_a_long_name_of_an_image_is_cut():
    key = replace(KEY, source="a" * 250)
    assert key.folder_name() == f"tiny-{'a' * 100}-4steps-{key.digest()}"
    assert len(KEY.digest()) == 12


def test_p_t_steps_are_put_in_descending_order():
    assert KEY.pred_x0_steps == (999, 666)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "16"}, "precision must be one of 32-true, bf16"),
        ({"pred_x0_steps": (5,)}, r"must lie on the time grid \(0, 333, 666, 999\), got \[5\]"),
        ({"num_steps": 1}, "num_steps must be 2 to"),
    ],
)
def test_a_key_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(KEY, **change)


def test_items_come_back_as_written(tmp_path):
    store = make_full_store(tmp_path)
    reader = LatentStore.open(store.folder)
    for k in range(3):
        written = make_tensors(reader.shard_indices(k), seed=k)
        for row, index in enumerate(reader.shard_indices(k)):
            item = reader[index]
            assert item.keys() == written.keys()
            assert all(torch.equal(item[name], written[name][row]) for name in item)
    assert len(reader) == 10
    assert reader.key == KEY
    with pytest.raises(IndexError, match="0 to 9, got 10"):
        reader[10]


def test_a_pickled_store_reads(tmp_path):
    store = make_full_store(tmp_path)
    assert torch.equal(pickle.loads(pickle.dumps(store))[9]["x_T"], store[9]["x_T"])


def test_a_store_without_labels_and_p_t_reads(tmp_path):
    store = make_store(tmp_path, key=replace(KEY, pred_x0_steps=()), num_labels=0, shard_size=10)
    tensors = make_tensors(range(10))
    store.write_shard(0, {"x_0": tensors["x_0"], "x_T": tensors["x_T"], "labels": tensors["labels"][:, :0]})
    assert store[3].keys() == {"x_0", "x_T", "labels"}
    assert store[3]["labels"].shape == (0,)


def test_the_same_content_gives_the_same_bytes_in_another_process(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(__file__.rsplit('/', 1)[0])!r})\n"
    code += f"import test_latents; test_latents.make_full_store({str(tmp_path / 'b')!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    ours = sorted(make_full_store(tmp_path / "a").folder.iterdir())
    theirs = sorted((tmp_path / "b" / KEY.folder_name()).iterdir())
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]


def test_missing_shards_are_found(tmp_path):
    store = make_store(tmp_path)
    assert store.missing_shards() == [0, 1, 2]
    store.write_shard(1, make_tensors(store.shard_indices(1)))
    assert store.missing_shards() == [0, 2]
    assert store.missing_shards([1]) == []
    assert not store.is_complete()
    assert make_full_store(tmp_path).is_complete()


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_a_truncated_shard_counts_as_missing(tmp_path, keep):
    store = make_full_store(tmp_path)
    path = store.shard_path(1)
    path.write_bytes(path.read_bytes()[:keep])
    assert store.missing_shards() == [1]
    assert not store.is_complete()


@pytest.mark.parametrize("place", [3, 20, 200, -1])
def test_a_flipped_bit_counts_as_missing_and_is_not_read(tmp_path, place):
    store = make_full_store(tmp_path)
    damaged = bytearray(store.shard_path(2).read_bytes())
    damaged[place] ^= 1
    store.shard_path(2).write_bytes(damaged)
    assert store.missing_shards() == [2]
    assert store[7]["labels"][0] == 7
    assert store.missing_shards(verify=False) == ([2] if place == 3 else [])
    with pytest.raises(ValueError, match=r"shard-00002.*corrupt.*rerun the command that made it"):
        store[8]
    assert store.missing_shards(verify=False) == [2]


def test_a_missing_shard_says_so_when_read(tmp_path):
    store = make_full_store(tmp_path)
    store.shard_path(0).unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00000.*rerun the command that made it"):
        store[0]


def test_the_shard_of_another_store_or_place_counts_as_missing(tmp_path):
    store = make_full_store(tmp_path)
    other = make_store(tmp_path, key=replace(KEY, source_fingerprint="ef56"))
    for k in range(3):
        other.shard_path(k).write_bytes(store.shard_path(k).read_bytes())
    store.shard_path(1).write_bytes(store.shard_path(0).read_bytes())
    assert other.missing_shards() == [0, 1, 2]
    assert store.missing_shards() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_size": 5}, "shard_size: 4 there, 5 asked for"),
        ({"item_keys": ITEM_KEYS[:9]}, "item_keys: 10 there, 9 asked for"),
        ({"item_keys": ["x", *ITEM_KEYS[1:]]}, "first difference 'image 0' there, 'x' asked for"),
        ({"num_labels": 3}, "tensors: .*or delete it"),
    ],
)
def test_a_contradicting_manifest_says_what_differs(tmp_path, change, message):
    make_store(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_store(tmp_path, **change)


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_version_is_refused(tmp_path, version):
    path = make_store(tmp_path).folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))
    for action in (make_store, lambda root: LatentStore.open(path.parent)):
        with pytest.raises(ValueError, match=f"has format version {version}, this asyrp_lit reads version 1"):
            action(tmp_path)


@pytest.mark.parametrize("keep", [0, 1, 100, -3])
def test_a_half_written_manifest_is_rewritten_and_shards_are_kept(tmp_path, keep):
    store = make_full_store(tmp_path)
    path = store.folder / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"half-written: rerun the command that made it"):
        LatentStore.open(store.folder)
    assert make_store(tmp_path).missing_shards() == []
    assert path.read_bytes() == whole


def test_no_store_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no latent store in .*run invert\.py"):
        LatentStore.open(tmp_path)


@pytest.mark.parametrize("arguments", [{"item_keys": []}, {"item_keys": ["a", "a"]}, {"shard_size": 0}])
def test_a_store_of_nothing_is_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least one image, each with its own key"):
        make_store(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x_T", lambda x: x[:3], r"x_T of shard 0 must be float32 of shape \(4, 3, 8, 8\)"),
        ("x_0", lambda x: x.float(), "x_0 of shard 0 must be uint8"),
        ("pred_x0", lambda x: x[:, :1], r"pred_x0 of shard 0 must be float16 of shape \(4, 2, 3, 8, 8\)"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, name, change, message):
    store = make_store(tmp_path)
    tensors = make_tensors(range(4))
    with pytest.raises(ValueError, match=message):
        store.write_shard(0, tensors | {name: change(tensors[name])})
    tensors.pop(name)
    with pytest.raises(ValueError, match="must have the tensors"):
        store.write_shard(0, tensors)


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_no_half_file_and_says_what_to_do(tmp_path, monkeypatch, failing):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = make_store(tmp_path)
    before = sorted(store.folder.iterdir())
    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match=r"shard 0 to .*No space left.*MiB.*choose another folder.*rerun") as caught:
        store.write_shard(0, make_tensors(range(4)))
    assert caught.value.errno == errno.ENOSPC
    assert sorted(store.folder.iterdir()) == before


def test_what_a_killed_writer_left_is_removed(tmp_path):
    store = make_store(tmp_path)
    (store.folder / ".shard-00000.safetensors.0a1b2c3d.tmp").write_bytes(b"half")
    store.write_shard(0, make_tensors(range(4)))
    assert sorted(path.name for path in store.folder.iterdir()) == ["manifest.json", "shard-00000.safetensors"]


def test_disk_bytes_are_those_on_disk(tmp_path):
    store = make_full_store(tmp_path)
    estimate = LatentStore.disk_bytes(KEY, 10, 2)
    actual = sum(store.shard_path(k).stat().st_size for k in range(3))
    assert estimate == 10 * (192 + 192 * 4 + 2 * 8 + 2 * 192 * 2)
    assert 0 <= actual - estimate < 3 * 1024


def test_the_lock_of_a_shard_keeps_a_second_process_out(tmp_path):
    store = make_store(tmp_path)
    code = "import sys; from filelock import FileLock; FileLock(sys.argv[1]).acquire(timeout=0.1)"
    with store.lock_shard(1) as lock, store.lock_shard(2):
        held = subprocess.run([sys.executable, "-c", code, lock.lock_file], capture_output=True, text=True)
    free = subprocess.run([sys.executable, "-c", code, lock.lock_file])
    assert "Timeout" in held.stderr
    assert free.returncode == 0
