"""Released f_t files to direction files and back, and what either holds."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from asyrp_lit.hspace.direction import read_direction, save_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.hspace.released import read_released, write_released
from asyrp_lit.hspace.released_names import parse_released_name
from asyrp_lit.stages.direction_table import tabulate_direction, tabulate_released
from asyrp_lit.stages.guard import console_log, errors_as_messages, raise_failed, try_each
from asyrp_lit.stages.released_import import import_files, load_attribute

log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_IMPORT_HELP = """
keys (conf/directions.yaml; --help of train.py lists the groups):
  model=NAME        the base model that it was trained on
  cos_text=0.899    cosine of the two bare prompts; without it from CLIP, where its weights are here
  out=PATH          a folder, or a file that ends in .safetensors
  attr=NAME curves=NAME num_steps=40     where the file name does not say
  interval=fixed interval.t_edit=513 interval.t_boost=167     instead of the published curves
"""


def directions(arguments: Sequence[str], conf: Path) -> None:
    """Run ``import``, ``export``, ``pack`` or ``show`` as the command line says; exit code 1 where any file failed.

    Args:
        arguments: of the command line, without the script.
        conf: the folder of configuration.
    """
    options = _make_parser().parse_args(arguments)
    with console_log(), errors_as_messages():
        if options.verb == "import":
            overrides = [word for word in options.words if _is_override(word)]
            import_files([Path(word) for word in options.words if not _is_override(word)], overrides, conf)
        elif options.verb == "export":
            export_file(find_direction(options.file), options.out or options.file.with_suffix(".pth"))
        elif options.verb == "pack":
            pack_file(find_direction(options.file), options.out)
        else:
            _, failed = try_each(options.files, str, lambda path: show_file(find_direction(path), conf))
            raise_failed(failed, len(options.files))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="directions.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="import | export | pack | show")
    raw = argparse.RawDescriptionHelpFormatter
    verb = verbs.add_parser(
        "import", help="released files to direction files", epilog=_IMPORT_HELP, formatter_class=raw
    )
    verb.add_argument("words", nargs="+", metavar="FILE.pth | key=value")
    verb = verbs.add_parser("export", help="a direction file to a released one")
    verb.add_argument("file", type=Path, metavar=f"FILE{_SUFFIX}|NAME", help="or the name of one in the package")
    verb.add_argument("out", type=_parse_out, nargs="?", metavar="OUT.pth")
    verb = verbs.add_parser("pack", help="a direction file in float16, half the size")
    verb.add_argument("file", type=Path, metavar=f"FILE{_SUFFIX}|NAME", help="or the name of one in the package")
    verb.add_argument("out", type=_parse_out, metavar=f"OUT{_SUFFIX}")
    verb = verbs.add_parser("show", help="what files of either kind hold")
    verb.add_argument("files", type=Path, nargs="+", metavar="FILE|NAME", help="or the name of one in the package")
    return parser


def _parse_out(word: str) -> Path:
    return Path(word.removeprefix("out="))  # as for import


def _is_override(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def export_file(path: Path, out: Path) -> None:
    """Write a direction file as a released one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a direction file, has no released layout, or ``out`` is there already.
    """
    direction, info = read_direction(path)
    if out.exists():
        raise ValueError(f"{out} exists already: name another file, python directions.py export {path} OUT.pth")
    write_released(out, direction)
    log.info("%s (%s on %s) -> %s", path, info.attribute, info.base_model, out)


def pack_file(path: Path, out: Path) -> None:
    """Write a direction file with its tensors in float16; they are float32 again when it is loaded.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a direction file, a number is too large for float16, or ``out`` is there already.
    """
    direction, info = read_direction(path)
    if out.exists():
        raise ValueError(f"{out} exists already: name another file, python directions.py pack {path} OUT{_SUFFIX}")
    if not all(value.half().isfinite().all() for value in direction.state_dict().values()):
        raise ValueError(f"{path} has numbers that float16 cannot hold: keep it as it is")
    save_direction(out, direction, info, half=True)
    log.info("%s (%s on %s) -> %s", path, info.attribute, info.base_model, out)


def show_file(path: Path, conf: Path) -> None:
    """Print what a direction file or a released file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither.
    """
    if path.suffix == _SUFFIX:
        rows = tabulate_direction(*read_direction(path))
    else:
        released, name = read_released(path), parse_released_name(path.name)
        rows = tabulate_released(released, name, load_attribute(name, conf) if name else None)
    width = max(map(len, rows))
    sys.stdout.write("\n".join([str(path), *(f"  {key.ljust(width)}  {value}" for key, value in rows.items()), ""]))
