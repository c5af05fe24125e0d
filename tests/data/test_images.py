"""Image folders: every kind of picture becomes (3, S, S) in [-1, 1]; bad ones are named."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asyrp_lit.data import decode
from asyrp_lit.data.decode import load_image
from asyrp_lit.data.images import ImageFolder, list_images


def save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def grey(path: Path, value: int = 128, size: tuple[int, int] = (8, 8)) -> Path:
    return save(path, Image.new("L", size, value))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def half_bad(tmp_path):
    grey(tmp_path / "good.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image")
    whole = save(tmp_path / "cut.jpg", noise(64, 64)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_files_come_in_natural_order_from_all_depths(tmp_path):
    for name in ("10.png", "2.JPG", "b/1.webp", ".hidden/3.png", "._4.png", "notes.txt"):
        grey(tmp_path / name) if "txt" not in name else (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["2.JPG", "10.png", "b/1.webp"]


def test_a_folder_that_may_not_be_entered_is_passed_over(tmp_path, monkeypatch):
    grey(tmp_path / "1.png")
    (tmp_path / "lost+found").mkdir()
    is_file = Path.is_file

    def deny(path):
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", deny)  # modes do not stop the superuser
    assert [path.name for path in list_images(tmp_path)] == ["1.png"]


def test_links_to_folders_are_followed_once(tmp_path):
    grey(tmp_path / "store" / "1.png")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "store")
    (folder / "loop").symlink_to(folder)
    assert [path.name for path in list_images(folder)] == ["1.png"]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 255, (1, 1, 1)),
        ("1", 1, (1, 1, 1)),
        ("RGB", (255, 0, 0), (1, -1, -1)),
        ("RGBA", (255, 0, 0, 0), (1, 1, 1)),
        ("LA", (0, 255), (-1, -1, -1)),
        ("LA", (0, 0), (1, 1, 1)),
        ("CMYK", (0, 255, 255, 0), (1, -1, -1)),
        ("I;16", 65535, (1, 1, 1)),
        ("I;16", 257 * 51, (-0.6, -0.6, -0.6)),
        ("I", 257 * 51, (-0.6, -0.6, -0.6)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, colour, expected):
    x = load_image(save(tmp_path / "x.tif", Image.new(mode, (5, 7), colour)), 4)
    assert x.shape == (3, 4, 4)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor(expected).float()[:, None, None].expand(3, 4, 4))


def test_bytes_give_what_their_file_gives(tmp_path):
    path = save(tmp_path / "x.webp", noise(20, 16))
    assert torch.equal(load_image(path.read_bytes(), 8), load_image(path, 8))
    with pytest.raises(ValueError, match="image 7 of it cannot be read"):
        load_image(b"no image", 8, "7 of it")


def test_a_transparent_palette_colour_shows_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert load_image(save(tmp_path / "opaque.png", image), 4)[:, 0, 0].tolist() == [1, -1, -1]
    assert load_image(save(tmp_path / "clear.png", image, transparency=1), 4).min() == 1


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    image = noise(8, 8)
    turned = load_image(save(tmp_path / "turned.png", image, exif=exif), 8)
    plain = load_image(save(tmp_path / "plain.png", image), 8)
    assert torch.equal(turned, torch.rot90(plain, -1, (1, 2)))


def test_an_image_of_the_right_size_is_not_resampled(tmp_path):
    image = noise(16, 16)
    x = load_image(save(tmp_path / "x.png", image), 16)
    assert np.array_equal(((x + 1) * 127.5).round().permute(1, 2, 0).numpy(), np.asarray(image))


def test_cropping_equals_resizing_the_short_side_and_cropping_the_centre(tmp_path):
    image = noise(64, 32)
    by_hand = image.resize((32, 16), Image.Resampling.BICUBIC).crop((8, 0, 24, 16))
    difference = load_image(save(tmp_path / "x.png", image), 16) - load_image(save(tmp_path / "y.png", by_hand), 16)
    assert difference.abs().max() <= 2 / 255


@pytest.mark.parametrize("name", ["empty.png", "text.jpg", "cut.jpg"])
def test_a_damaged_file_is_named_with_what_to_do(half_bad, name):
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*on_bad_image=skip"):
        load_image(half_bad / name, 8)


def test_values_without_a_known_range_are_refused(tmp_path):
    path = save(tmp_path / "x.tif", Image.new("F", (4, 4), 0.5))
    with pytest.raises(ValueError, match="mode F have no known range"):
        load_image(path, 4)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = grey(tmp_path / "bomb.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb.png has too many pixels"):
        load_image(path, 4)


def gradient(width, height):
    across = Image.linear_gradient("L")
    return Image.merge("RGB", (across, across.rotate(90), across.rotate(180))).resize((width, height))


def test_a_large_jpeg_is_decoded_small_and_to_the_same_pixels(tmp_path, monkeypatch):
    seen, image, exif = [], gradient(6000, 4000), Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "x.jpg", image, quality=95, exif=exif)
    crop = decode._crop_and_resize
    monkeypatch.setattr(decode, "_crop_and_resize", lambda image, size: (seen.append(image.size), crop(image, size))[1])
    small = load_image(path, 64)
    with Image.open(path) as opened:
        whole = load_image(opened, 64)
        assert opened.size == (6000, 4000)  # the caller's image stays as it was
    assert seen == [(1000, 1500), (4000, 6000)]
    assert (small - whole).abs().max() <= 2.01 / 127.5


MEASURE = """
import resource, sys
from asyrp_lit.data import decode
from asyrp_lit.data.decode import load_image
for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_image(path, 64)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_fifty_megapixels_take_no_memory_as_a_jpeg_and_once_their_size_as_a_png(tmp_path):
    image = gradient(10000, 5000)
    paths = [
        save(tmp_path / name, image, **options) for name, options in (("x.jpg", {}), ("x.png", {"compress_level": 1}))
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    jpeg, png = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert jpeg < 50  # MB
    assert png < 250  # 10000 x 5000 pixels of 4 bytes are 191


def test_bad_images_raise_when_read_or_are_left_out_with_a_warning(half_bad, caplog):
    assert len(ImageFolder(half_bad, 8)) == 4
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(half_bad, 8, on_bad_image="skip")
    assert source.keys == ["good.png"]
    assert "left out 3 of 4 images" in caplog.text
    assert "cut.jpg, empty.png, text.jpg" in caplog.text
    with pytest.raises(ValueError, match="none of the 2 images"):
        ImageFolder(half_bad, 8, on_bad_image="skip", limit=2)


def test_start_and_limit_split_a_folder(tmp_path):
    for value in range(12):
        grey(tmp_path / f"{value}.png", value)
    train, val = ImageFolder(tmp_path, 8, limit=8), ImageFolder(tmp_path, 8, start=8, name="mine")
    assert train.keys + val.keys == [f"{value}.png" for value in range(12)]
    assert (train.name, val.name) == (tmp_path.name, "mine")
    assert val[3].x_0.mean() == pytest.approx(11 / 127.5 - 1)
    assert val[3].labels.shape == (0,)


def test_one_file_is_a_source_of_one_image(tmp_path):
    source = ImageFolder(grey(tmp_path / "me.png"), 8)
    assert (len(source), source.keys, source.name) == (1, ["me.png"], "me.png")


def test_the_fingerprint_follows_content_names_and_size_but_not_the_place(tmp_path):
    for folder, name, value in (("a", "1.png", 1), ("b", "1.png", 1), ("c", "1.png", 2), ("d", "2.png", 1)):
        grey(tmp_path / folder / name, value)
    a, b, c, d = (ImageFolder(tmp_path / folder, 8).fingerprint() for folder in "abcd")
    assert a == b
    assert len({a, c, d, ImageFolder(tmp_path / "a", 4).fingerprint()}) == 4


def test_a_wrong_folder_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        ImageFolder(tmp_path / "nowhere", 8)
    with pytest.raises(ValueError, match=r"has no images; accepted are files .*\.png"):
        ImageFolder(tmp_path, 8)
    grey(tmp_path / "1.png")
    with pytest.raises(ValueError, match="start=5 leaves none"):
        ImageFolder(tmp_path, 8, start=5)


def test_a_name_that_is_no_text_is_read_hashed_and_shown(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.png")
    grey(tmp_path / "plain.png").rename(odd)
    assert len(ImageFolder(tmp_path, 8).fingerprint()) == 16
    odd.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\\xff.png cannot be read"):
        ImageFolder(tmp_path, 8)[0]


@pytest.mark.parametrize(("argument", "value"), [("size", 0), ("limit", 0), ("start", -1), ("on_bad_image", "ignore")])
def test_a_wrong_argument_is_named(tmp_path, argument, value):
    with pytest.raises(ValueError, match=argument):
        ImageFolder(tmp_path, **{"size": 8, argument: value})
