"""Animations: a GIF for everywhere, an MP4 where size matters."""

import secrets
from pathlib import Path
from typing import Any

import imageio.v3 as imageio

from asyrp_lit.plots.grid import Pixels

_FPS = 12
#: Format -> what imageio writes it with. Video codecs want even edges, not multiples of 16.
_OPTIONS: dict[str, dict[str, Any]] = {
    "gif": {"plugin": "pillow", "duration": 1000 / _FPS, "loop": 0},
    "mp4": {"plugin": "FFMPEG", "fps": _FPS, "macro_block_size": 2, "ffmpeg_log_level": "error"},
}
FORMATS = tuple(_OPTIONS)


def save_animation(path: Path, frames: Pixels, zoom: int = 1) -> Path:
    """Write frames as a GIF that repeats, or as an MP4, all of it or nothing.

    Args:
        path: ends in ``.gif`` or ``.mp4``.
        frames: (N, H, W, 3) uint8; an odd last row or column is left out.
        zoom: pixels of the animation per pixel of a frame.

    Raises:
        OSError: it cannot be written.
    """
    pixels = frames.repeat(zoom, axis=1).repeat(zoom, axis=2)
    height, width = (edge // 2 * 2 for edge in pixels.shape[1:3])
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        imageio.imwrite(temporary, pixels[:, :height, :width], **_OPTIONS[path.suffix.removeprefix(".")])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
