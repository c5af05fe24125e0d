"""Images by their path, and every data set of conf/data in the layout in which it comes."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asyrp_lit.data.images import ImageFolder
from asyrp_lit.data.latent_manifest import StoreKey
from asyrp_lit.data.lmdb_images import ImageLMDB
from asyrp_lit.data.open_images import find_shared, open_images, open_split
from asyrp_lit.stages.latents import build_source

CONF = str(Path(__file__).parents[2] / "conf")


@pytest.fixture
def build(monkeypatch, tmp_path):
    """``build(DATA, *OVERRIDES)``: train and val images as a script would open them below a folder of data sets."""
    monkeypatch.setenv("ASYRP_DATA", str(tmp_path))

    def build(data, *overrides):
        with initialize_config_dir(CONF, version_base="1.3"):
            cfg = compose("train", [f"data={data}", "model.image_size=16", *overrides])
        return [instantiate(cfg.data[split]) for split in ("train", "val")]

    return build


def split(place, other=None, **options):
    options = {"size": 8, "val_images": 0.25, "split_seed": 0} | options
    return [open_split(name, *pair, **options) for name, pair in (("train", (place, other)), ("val", (other, place)))]


def test_an_lmdb_is_told_from_a_folder_by_its_file(lsun, save_pictures, tmp_path):
    folder = save_pictures(tmp_path / "folder", ["1.png"])
    assert isinstance(open_images(lsun, 8), ImageLMDB)
    assert isinstance(open_images(str(lsun / "data.mdb"), 8), ImageLMDB)
    assert isinstance(open_images(folder, 8), ImageFolder)
    assert open_images(folder / "1.png", 8).keys == ["1.png"]


def test_the_first_place_that_exists_is_taken(save_pictures, tmp_path):
    save_pictures(tmp_path / "test", ["1.png"])
    assert open_images([str(tmp_path / "val"), str(tmp_path / "test")], 8).path == tmp_path / "test"
    with pytest.raises(FileNotFoundError, match=r"neither .*val, nor .*dev: put the images there, set ASYRP_DATA"):
        open_images([str(tmp_path / "val"), str(tmp_path / "dev")], 8)


def test_a_folder_of_neither_says_what_is_accepted(tmp_path):
    with pytest.raises(ValueError, match=r"has no images; accepted are files .*\.png.*, or an LMDB \(data\.mdb\)"):
        open_images(tmp_path, 8)


def test_one_folder_is_split_by_a_seed(save_pictures, tmp_path):
    names = [f"{number}.png" for number in range(12)]
    train, val = split(save_pictures(tmp_path / "own", names))
    assert (len(train), len(val)) == (9, 3)
    assert sorted(train.keys + val.keys) == sorted(names)
    assert not find_shared(train, val)
    assert split(tmp_path / "own", split_seed=1)[1].keys != val.keys


def test_the_split_does_not_depend_on_the_order_of_the_file_system(save_pictures, tmp_path):
    names = [f"{number}/{number}.png" for number in range(20)]
    one, other = split(save_pictures(tmp_path / "a", names)), split(save_pictures(tmp_path / "b", names[::-1]))
    assert [source.keys for source in one] == [source.keys for source in other]


def test_two_folders_are_taken_whole(save_pictures, tmp_path):
    train, val = (save_pictures(tmp_path / name, ["1.png", "2.png"]) for name in ("train", "val"))
    sources = split(train, val)
    assert [(source.path, len(source)) for source in sources] == [(train, 2), (val, 2)]
    assert not find_shared(*sources)


def test_a_single_image_is_shared_and_found_to_be(save_pictures, tmp_path):
    train, val = split(save_pictures(tmp_path, ["me.png"]))
    assert find_shared(train, val) == train.keys == val.keys == ["me.png"]


def test_without_a_train_folder_nothing_is_opened(tmp_path):
    with pytest.raises(ValueError, match=r"needs data\.train\.folder=/path"):
        split(None)
    with pytest.raises(ValueError, match=r"needs data\.train\.folder=/path"):
        open_split("train", None, tmp_path, 8, 0.1, 0)


def test_two_data_sets_with_one_folder_name_have_two_stores(save_pictures, tmp_path):
    sources = [
        ImageFolder(save_pictures(tmp_path / place / "images", names), 8)
        for place, names in (("a", ["1.png", "2.png"]), ("b", ["2.png", "1.png"]))
    ]
    stores = {StoreKey("m", "0", source.name, source.fingerprint(), 8, 4, 999).folder_name() for source in sources}
    assert {source.name for source in sources} == {"images"}
    assert sources[0].keys == sources[1].keys
    assert len(stores) == 2


@pytest.fixture(params=["folder", "LMDB"])
def start(request, tmp_path, save_pictures, lsun, monkeypatch):
    """The images as a script opens them when it starts, below ``tmp_path``; ``start.reads`` are those read so far."""
    place = lsun if request.param == "LMDB" else save_pictures(tmp_path / "images", ["1.png", "2.png"])
    settings = {"_target_": "asyrp_lit.data.open_images.open_images", "folder": str(place), "size": 8}
    latents = {"kind": "inverted"}
    cfg = OmegaConf.create({"data": {"train": settings}, "latents": latents, "paths": {"latents": str(tmp_path)}})
    reads = []
    for kind in (ImageFolder, ImageLMDB):
        read = kind._read
        monkeypatch.setattr(kind, "_read", lambda self, key, read=read: reads.append(key) or read(self, key))
    return SimpleNamespace(
        reads=reads,
        file=place / ("data.mdb" if place == lsun else "1.png"),
        open=lambda: build_source(cfg, "train", None),
    )


def test_a_second_start_reads_no_image_and_one_after_a_change_reads_all(start):
    first = start.open().fingerprint()
    read = len(start.reads)
    assert read == len(start.open())
    assert start.open().fingerprint() == first
    assert len(start.reads) == read
    stat = start.file.stat()
    content = start.file.read_bytes()
    start.file.write_bytes(content[::-1] if start.file.suffix == ".png" else content)
    os.utime(start.file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps the times
    assert (start.open().fingerprint() != first) is (start.file.suffix == ".png")
    assert len(start.reads) == 2 * read


def test_a_fingerprint_of_images_that_change_while_they_are_read_is_not_kept(start, tmp_path, monkeypatch):
    source = start.open()
    monkeypatch.setattr(source, "_read_all", lambda: os.utime(start.file) or "0" * 16)
    assert source.fingerprint() == "0" * 16
    assert [path.suffix for path in (tmp_path / "fingerprints").iterdir()] in ([], [".lock"])
    assert start.open().fingerprint() != "0" * 16


def test_where_no_fingerprint_can_be_kept_images_are_read(start, tmp_path):
    expected = start.open()._read_all()
    (tmp_path / "fingerprints").write_text("a file, where a folder has to be")
    assert start.open().fingerprint() == expected


@pytest.mark.parametrize(("version", "val"), [(1, "val"), (2, "test")])
def test_both_versions_of_afhq_are_found(build, save_pictures, tmp_path, version, val):
    suffix = {1: "jpg", 2: "png"}[version]
    for part in ("train", val):
        save_pictures(
            tmp_path / "afhq" / part,
            [f"{kind}/flickr_{kind}_000{n}.{suffix}" for kind in ("cat", "dog") for n in (10, 2)],
        )
    sources = build("afhq_dog")
    assert [source.name for source in sources] == ["afhq_dog-train", "afhq_dog-val"]
    assert [source.path.parent.name for source in sources] == ["train", val]
    assert sources[0].keys == [f"flickr_dog_0002.{suffix}", f"flickr_dog_00010.{suffix}"]


@pytest.mark.parametrize("nested", [False, True])
def test_ffhq_is_read_flat_and_nested_by_thousands(build, save_pictures, tmp_path, nested):
    numbers = (1000, 999, 2, 60000)
    names = [f"{n // 1000 * 1000:05d}/{n:05d}.png" if nested else f"{n:05d}.png" for n in numbers]
    save_pictures(tmp_path / "ffhq/images1024x1024", names)
    train, val = build("ffhq", "data.train.limit=3", "data.val.start=3")
    assert [Path(key).stem for key in train.keys + val.keys] == ["00002", "00999", "01000", "60000"]


def test_metfaces_validates_on_the_images_after_those_of_training(build, save_pictures, tmp_path):
    save_pictures(tmp_path / "metfaces/images", [f"{n}-00.png" for n in (10, 9, 100, 1)])
    train, val = build("metfaces", "data.train.limit=3", "data.val.start=3")
    assert (train.keys, val.keys) == (["1-00.png", "9-00.png", "10-00.png"], ["100-00.png"])


def test_a_class_of_imagenet_is_named_by_its_number(build, save_pictures, tmp_path):
    for part, count in (("train", 3), ("val", 2)):
        save_pictures(tmp_path / "imagenet" / part, [f"n02099601/n02099601_{n}.JPEG" for n in range(count)])
    sources = build("imagenet_class", "data.wnid=n02099601")
    assert [(source.name, len(source)) for source in sources] == [
        ("imagenet_n02099601-train", 3),
        ("imagenet_n02099601-val", 2),
    ]


def test_celeba_hq_is_a_folder_in_natural_order_or_two_lmdbs(build, save_pictures, stylemapgan, tmp_path):
    save_pictures(tmp_path / "CelebA-HQ-img", [f"{n}.jpg" for n in range(12)])
    train, val = build("celeba_hq", "data.train.limit=10", "data.val.start=11")
    assert (train.keys[-1], val.keys) == ("9.jpg", ["11.jpg"])
    folders = (f"data.train.folder={stylemapgan}", f"data.val.folder={stylemapgan}")
    train, val = build("celeba_hq", *folders, "data.train.limit=8", "data.val.start=8")
    assert (train.keys[-1], val.keys) == ("16-00007", ["16-00008", "16-00009", "16-00010"])
    train, _ = build("celeba_hq", *folders, "data.val.start=8", "data.resolution=32")
    assert train.keys[0] == "32-00000"


@pytest.mark.parametrize(("data", "name"), [("lsun_church", "church_outdoor"), ("lsun_bedroom", "bedroom")])
def test_lsun_is_an_lmdb_as_distributed_or_a_folder(build, save_pictures, write_lmdb, picture, tmp_path, data, name):
    for part, value in (("train", 3), ("val", 4)):
        save_pictures(tmp_path / f"lsun/{name}_{part}", ["1.webp"])
        write_lmdb(tmp_path / f"lsun/{name}_{part}_lmdb", {b"%040x" % value: picture(value)})
    sources = build(data)
    assert [source.keys for source in sources] == [[f"{value:040x}"] for value in (3, 4)]
    assert sources[0].name == f"{data}-train"
    train, _ = build(data, f"data.train.folder={tmp_path}/lsun/{name}_train")
    assert train.keys == ["1.webp"]
