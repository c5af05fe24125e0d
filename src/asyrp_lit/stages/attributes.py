"""From ``cfg`` to several attributes at once, by the names of their files in conf/attr."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from asyrp_lit.hspace.attribute import Attribute, resolve_attribute


def find_conf() -> Path:
    """The folder of configuration that the script was started with."""
    sources = HydraConfig.get().runtime.config_sources
    return Path(next(source.path for source in sources if source.provider == "main"))


def list_attribute_files() -> dict[str, Path]:
    """The files of conf/attr by the name of their attribute."""
    return {file.stem: file for file in (find_conf() / "attr").glob("*.yaml")}


def find_attribute(name: str, domain: str) -> Attribute:
    """The attribute of a file of conf/attr, as it is meant on a domain.

    Raises:
        ValueError: there is no such file, or it is not that of an attribute.
    """
    files = list_attribute_files()
    if name not in files:
        close = get_close_matches(name, files, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"attribute {name!r} has no file in conf/attr{hint}")
    return _resolve(OmegaConf.load(files[name]), domain)


def find_attributes(cfg: DictConfig) -> list[Attribute]:
    """The attribute of ``attr=NAME``, if that is given, and those of ``attributes``; each name once.

    Raises:
        ValueError: none is named, or one cannot be found.
    """
    entries = cfg.attributes
    if not isinstance(entries, ListConfig):
        raise ValueError(f"attributes must be a list of names of conf/attr, such as [smiling,sad], got {entries!r}")
    found = [_resolve(cfg.attr, cfg.model.domain)] if "attr" in cfg else []
    for entry in entries:
        is_block = isinstance(entry, DictConfig)
        found.append(_resolve(entry, cfg.model.domain) if is_block else find_attribute(str(entry), cfg.model.domain))
    if not found:
        raise ValueError("attributes must name one attribute or more, such as attributes=[smiling,sad]")
    first: dict[str, Attribute] = {}
    for attribute in found:
        first.setdefault(attribute.name, attribute)
    return list(first.values())


def _resolve(values: object, domain: str) -> Attribute:
    plain = OmegaConf.to_container(values, resolve=True)
    assert isinstance(plain, Mapping)
    return resolve_attribute({str(key): value for key, value in plain.items()}, domain)
