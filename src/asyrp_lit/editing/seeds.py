"""The boosting noise of an image is its own, whatever its batch, place or device."""

import hashlib

from asyrp_lit.data.latents import to_uint8
from asyrp_lit.shapes import Images


def derive_seed(content: bytes, seed: int) -> int:
    """The seed of an image's own noise: of its content and the run's seed, not of its batch or place."""
    digest = hashlib.sha256(f"{seed} ".encode() + content).digest()
    return int.from_bytes(digest[:6], "little")


def derive_seeds(x_0: Images, seed: int) -> list[int]:
    """The seed of each of some images, (B, 3, S, S) in [-1, 1], from its 8-bit pixels and the run's seed."""
    return [derive_seed(pixels.numpy().tobytes(), seed) for pixels in to_uint8(x_0.cpu())]
