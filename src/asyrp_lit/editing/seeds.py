"""The boosting noise of an image is its own, whatever its batch, place or device."""

import hashlib


def derive_seed(content: bytes, seed: int) -> int:
    """The seed of an image's own noise: of its content and the run's seed, not of its batch or place."""
    digest = hashlib.sha256(f"{seed} ".encode() + content).digest()
    return int.from_bytes(digest[:6], "little")
