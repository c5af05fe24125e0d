"""Converted checkpoints, kept as diffusers folders in the cache: conversion happens once."""

import hashlib
import json
import logging
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from safetensors import SafetensorError

from asyrp_lit.models.fetch import hash_file

log = logging.getLogger(__name__)

#: Raised whenever a converter gives other tensors for the same file.
CONVERTER_VERSION = 1
RECORD = "source.json"


def place_converted(name: str, checkpoint: Path, settings: dict[str, Any], cache: Path) -> Path:
    """Folder of a checkpoint's conversion: another one for other bytes, settings or converters.

    Args:
        name: of the base model.
        checkpoint: read whole, for its hash.
        settings: what the conversion depends on beside the file; plain values.
        cache: the cache folder.
    """
    facts = {"sha256": hash_file(checkpoint), "settings": settings, "version": CONVERTER_VERSION}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return cache / "converted" / f"{name}-{digest}"


def is_converted(folder: Path) -> bool:
    """Whether a conversion is there, all of it."""
    return (folder / RECORD).is_file()


def read_fingerprint(folder: Path) -> str:
    """The fingerprint of the network that a conversion was written from.

    Raises:
        ValueError: the record is damaged.
    """
    try:
        return str(json.loads((folder / RECORD).read_text())["fingerprint"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / RECORD} has no fingerprint") from error


def keep_converted(folder: Path, unet: UNet2DModel, record: dict[str, Any]) -> None:
    """Write a diffusers folder with ``source.json`` in it, all of it or nothing.

    A cache that cannot be written costs a warning and the next run another conversion.

    Args:
        folder: where ``place_converted`` says.
        unet: converted.
        record: what it was made from; plain values.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            made = Path(temporary) / "model"
            unet.save_pretrained(made, safe_serialization=True)
            (made / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
            made.replace(folder)
    except (OSError, SafetensorError) as error:
        if not is_converted(folder):  # by another process
            log.warning("the converted model is not kept in %s: %s", folder, error)


def discard_converted(folder: Path) -> None:
    """Take a damaged conversion out of the way; one that cannot be removed stays."""
    with suppress(OSError), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        folder.replace(Path(temporary) / "damaged")  # at once: nobody reads half of it
