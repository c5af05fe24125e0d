import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from asyrp_lit.plots.animate import save_animation

FRAMES = np.stack([np.full((17, 16, 3), 25 * k, dtype=np.uint8) for k in range(8)])


def test_a_gif_repeats_and_has_every_frame(tmp_path):
    with Image.open(save_animation(tmp_path / "a.gif", FRAMES, zoom=2)) as gif:
        assert (gif.n_frames, gif.info["loop"], gif.size) == (8, 0, (32, 34))


def test_an_mp4_has_every_frame_in_order(tmp_path):
    frames = imageio.imread(save_animation(tmp_path / "a.mp4", FRAMES, zoom=2), plugin="FFMPEG")
    assert frames.shape == (8, 34, 32, 3)
    means = frames.mean(axis=(1, 2, 3))
    assert means == pytest.approx([25 * k for k in range(8)], abs=6)


def test_a_failed_animation_leaves_nothing(tmp_path):
    folder = tmp_path / "gone"
    with pytest.raises(OSError, match="gone"):
        save_animation(folder / "a.gif", FRAMES)
    assert not list(tmp_path.rglob("*.tmp*"))
