"""Pictures as the library takes them: in memory, as paths, as tensors."""

import torch
from PIL import Image

import asyrp_lit
from asyrp_lit.data.decode import load_image


def test_pictures_paths_and_tensors_agree(photos, tmp_path):
    photos[0].save(tmp_path / "a.png")
    tensor = load_image(tmp_path / "a.png", 32)
    paths = (tmp_path / "a.png", str(tmp_path / "a.png"))
    for form in (photos[0], [photos[0]], *paths, tensor, tensor[None], [tensor], [tensor[None]]):
        assert torch.equal(asyrp_lit.to_tensor(form, 32), tensor[None])
    assert torch.equal(asyrp_lit.to_tensor(asyrp_lit.to_pil(tensor[None]), 32), tensor[None])


def test_a_picture_in_memory_is_turned_and_put_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 4))
    image.save(tmp_path / "a.png", exif=exif)
    opened = Image.open(tmp_path / "a.png")
    assert torch.equal(load_image(opened, 4), load_image(tmp_path / "a.png", 4))
    assert opened.convert("RGBA").size == (8, 4)  # neither closed nor changed


def test_a_home_folder_is_found(photos, tmp_path, monkeypatch):
    photos[0].save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert torch.equal(asyrp_lit.to_tensor("~/a.png", 32), asyrp_lit.to_tensor(photos[0], 32))
