"""What a run was started with, kept in its folder: Hydra overwrites ``.hydra`` at every later start there."""

import logging
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from asyrp_lit.files import write_atomically

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
SETTINGS_FILE = "settings.yaml"
#: Settings that change nothing in what a run finds, but for rounding.
FREE = (
    *("resume", "paths", "logger", "method.chunk_size", "inversion_batch_size"),
    *("latents.num_workers", "latents.read_workers", "latents.cache", "latents.cache_gib", "clip.cache"),
)
#: What runs did that were started before there was such a setting.
BEFORE = {
    "compile": False,
    "method.chunk_size": None,
    "method.init_from": None,
    "method.train_strengths": [1.0, 1.0],
}
#: Differences that a message names.
_NAMED = 5


def spell_override(name: str, value: object) -> str:
    """An override as a shell and then Hydra read it, in quotes where they need them."""
    text = str(value)
    if re.fullmatch(r"[\w.:+-]*/[\w./:+-]*", text, re.ASCII):  # never a number or a truth value
        return f"{name}={text}"
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), text)
    return shlex.quote(f'{name}="{escaped}"')


def keep_settings(cfg: DictConfig, run: Path) -> None:
    """Write ``settings.yaml`` into a run folder: settings, and when it was first started."""
    overrides = [text for text in HydraConfig.get().overrides.task if not text.startswith("resume=")]
    content = {
        "format_version": FORMAT_VERSION,
        "started": read_started(run) or time.time(),
        "overrides": overrides,
        "settings": OmegaConf.to_container(cfg, resolve=False),
    }
    write_atomically(run / SETTINGS_FILE, OmegaConf.to_yaml(OmegaConf.create(content)).encode())


def _load(path: Path) -> Any:
    """A YAML file; ``None`` where it is missing, empty or damaged."""
    if not path.is_file():
        return None
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False) or None
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        log.warning("%s is damaged and not regarded: %s", path, error)
        return None


def _read_kept(run: Path) -> dict[str, Any] | None:
    """The content of ``settings.yaml``; ``None`` where there is none, or it is damaged.

    Raises:
        ValueError: it is of a newer format version.
    """
    path = run / SETTINGS_FILE
    content = _load(path)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        if path.is_file():
            log.warning("%s is half-written and not regarded", path)
        return None
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content.get('format_version')}, this asyrp_lit reads {FORMAT_VERSION}: go on "
            "with the asyrp_lit that started the run, or choose another folder"
        )
    return content


def read_started(run: Path) -> float | None:
    """When a run was first started, in seconds since 1970; ``None`` where it kept no settings."""
    path = run / SETTINGS_FILE
    if not path.is_file():
        return None
    content = _load(path)
    started = content.get("started") if isinstance(content, dict) else None
    return path.stat().st_mtime if started is None else float(started)


def read_settings(run: Path) -> tuple[DictConfig, list[str]] | None:
    """Settings and overrides that a run was first started with; ``None`` where it kept none.

    Raises:
        ValueError: they are of a newer format version.
    """
    content = _read_kept(run)
    return None if content is None else (_complete(content["settings"]), list(content["overrides"]))


def read_hydra(run: Path) -> tuple[DictConfig, list[str]] | None:
    """The same from what Hydra wrote at the last start there, for runs that kept no ``settings.yaml``."""
    settings, overrides = (_load(run / ".hydra" / name) for name in ("config.yaml", "overrides.yaml"))
    return (_complete(settings), list(overrides or ())) if isinstance(settings, dict) else None


def _complete(settings: dict[str, Any]) -> DictConfig:
    """The settings of a run with those that did not exist when it was started."""
    earlier = OmegaConf.create({})
    for key, value in BEFORE.items():
        OmegaConf.update(earlier, key, value)
    return cast(DictConfig, OmegaConf.merge(earlier, settings))


def restore_hydra(run: Path) -> None:
    """Put what Hydra had written for the run of a folder back, after a start there that was refused."""
    kept = read_settings(run)
    if kept is None or not (run / ".hydra").is_dir():  # hydra.output_subdir may say another place, or none
        return
    for name, content in (("config.yaml", kept[0]), ("overrides.yaml", OmegaConf.create(kept[1]))):
        write_atomically(run / ".hydra" / name, OmegaConf.to_yaml(content).encode())


def list_differences(there: DictConfig, asked: DictConfig, free: Sequence[str] = FREE) -> list[str]:
    """Settings, other than the ``free`` ones, in which a run differs from what is asked for; a text each."""
    old, new = (dict(_flatten(OmegaConf.to_container(cfg, resolve=False))) for cfg in (there, asked))
    keys = [key for key in sorted(old.keys() | new.keys()) if not f"{key}.".startswith(tuple(f"{k}." for k in free))]
    return [
        f"{key}: {old.get(key, 'not set')} there, {new.get(key, 'not set')} asked for"
        for key in keys
        if old.get(key, "not set") != new.get(key, "not set")
    ]


def name_differences(differences: list[str]) -> str:
    """The first differences, for a message."""
    more = len(differences) - _NAMED
    return "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), node
