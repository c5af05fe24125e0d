"""What an edit is about: the two texts, and on labelled domains what counts as done and where to start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: The domain whose files may override the paper's texts.
AVATARS = "avatars"
_OVERRIDABLE = ("src_text", "trg_text", "labels", "where", "keep")
_KEYS = ("name", "domain", *_OVERRIDABLE, AVATARS)

#: Label name -> allowed classes.
Classes = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Attribute:
    """One attribute of one domain.

    Attributes:
        name: the file's name in ``conf/attr``, also that of the direction.
        src_text: what the source images show.
        trg_text: what they shall show.
        labels: label classes with which an oracle calls an edit a success; ``None``: not judged.
        where: condition on the labels of source images; ``None``: any image.
        keep: groups of prompts that exclude each other, whose reading by CLIP an edit shall not change; ``None``: on
            portraits the labels that ``labels`` does not name, elsewhere nothing.
    """

    name: str
    src_text: str
    trg_text: str
    labels: Classes | None = None
    where: Classes | None = None
    keep: tuple[tuple[str, ...], ...] | None = None


def list_classes(classes: Classes | None) -> dict[str, list[str]] | None:
    """The same with lists, as JSON has it."""
    return None if classes is None else {name: list(values) for name, values in classes.items()}


def _read_text(attr: Mapping[str, object], key: str) -> str:
    text = attr.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"attr.{key} must be a text, not {text!r}; set it in conf/attr or as attr.{key}='...'")
    return text


def _read_classes(attr: Mapping[str, object], key: str) -> Classes | None:
    entries = attr.get(key)
    if entries is None:
        return None
    if not isinstance(entries, Mapping):
        raise ValueError(f"attr.{key} must be null or map labels to classes, not {entries!r}")
    classes: Classes = {}
    for name, value in entries.items():
        values = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
        if not values or not all(isinstance(entry, str) for entry in values):
            hint = "put quotes around no and yes in YAML"
            raise ValueError(f"attr.{key}.{name} must be a class name or a list of some, not {value!r}; {hint}")
        classes[str(name)] = values
    return classes


def _read_groups(attr: Mapping[str, object], key: str) -> tuple[tuple[str, ...], ...] | None:
    groups = attr.get(key)
    if groups is None:
        return None
    error = f"attr.{key} must be null or groups of two or more prompts, such as [[man, woman]], not {groups!r}"
    if not isinstance(groups, Sequence) or isinstance(groups, str) or not groups:
        raise ValueError(error)
    for group in groups:
        texts = isinstance(group, Sequence) and not isinstance(group, str) and all(isinstance(t, str) for t in group)
        if not texts or len(group) < 2:
            raise ValueError(error)
    return tuple(tuple(group) for group in groups)


def _check_keys(attr: Mapping[str, object], known: Sequence[str], where: str) -> None:
    unknown = [key for key in attr if key not in known]
    if unknown:
        raise ValueError(f"{where} has no key {unknown[0]!r}; known keys: {', '.join(known)}")


def resolve_attribute(attr: Mapping[str, object], domain: str) -> Attribute:
    """The attribute that a file of ``conf/attr`` means on a domain.

    The file's own texts hold, unless ``domain`` is ``avatars`` and the file has an ``avatars`` block: what that block
    names then replaces the same key of the file.

    Args:
        attr: keys ``name``, ``src_text``, ``trg_text`` and optionally ``domain`` (for people to read), ``labels``,
            ``where``, ``keep``, ``avatars``.
        domain: what the base model draws (``model.domain``).

    Raises:
        ValueError: a key is unknown, a text is missing, or classes are not names.
    """
    _check_keys(attr, _KEYS, "attr")
    override = attr.get(AVATARS)
    if override is not None:
        if not isinstance(override, Mapping):
            raise ValueError(f"attr.{AVATARS} must be null or a block of {', '.join(_OVERRIDABLE)}, not {override!r}")
        _check_keys(override, _OVERRIDABLE, f"attr.{AVATARS}")
        if domain == AVATARS:
            attr = {**attr, **override}
    return Attribute(
        name=_read_text(attr, "name"),
        src_text=_read_text(attr, "src_text"),
        trg_text=_read_text(attr, "trg_text"),
        labels=_read_classes(attr, "labels"),
        where=_read_classes(attr, "where"),
        keep=_read_groups(attr, "keep"),
    )
