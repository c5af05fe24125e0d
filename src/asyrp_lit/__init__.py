"""Asyrp as a library: load a model, invert images, edit them; the names below are loaded when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyrp_lit.library.average import average
    from asyrp_lit.library.edit import edit
    from asyrp_lit.library.images import to_pil, to_tensor
    from asyrp_lit.library.latents import Latents, draw_latents, invert, reconstruct
    from asyrp_lit.library.models import ModelDirection, load_direction, load_model
    from asyrp_lit.library.pipeline import AsyrpPipeline

__all__ = [
    "AsyrpPipeline",
    "Latents",
    "ModelDirection",
    "average",
    "draw_latents",
    "edit",
    "invert",
    "load_direction",
    "load_model",
    "reconstruct",
    "to_pil",
    "to_tensor",
]

#: File of the room ``library`` -> what is taken from it.
_PLACES = {
    "average": ("average",),
    "edit": ("edit",),
    "images": ("to_pil", "to_tensor"),
    "latents": ("Latents", "draw_latents", "invert", "reconstruct"),
    "models": ("ModelDirection", "load_direction", "load_model"),
    "pipeline": ("AsyrpPipeline",),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"asyrp_lit.library.{place}"), name)
    raise AttributeError(f"module 'asyrp_lit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
