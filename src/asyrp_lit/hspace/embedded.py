"""Directions that ship with the package, by name."""

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files("asyrp_lit").joinpath("assets", "directions")))


def list_embedded() -> tuple[str, ...]:
    """Names of the embedded directions."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def find_direction(name: str | Path) -> Path:
    """The file of a direction.

    Args:
        name: a path, or the name of an embedded direction.

    Raises:
        FileNotFoundError: it is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(name) in list_embedded():
        return _FOLDER / f"{name}.safetensors"
    raise FileNotFoundError(
        f"there is no direction file {name}, nor an embedded direction of that name ({', '.join(list_embedded())}); "
        "train.py writes such files"
    )
