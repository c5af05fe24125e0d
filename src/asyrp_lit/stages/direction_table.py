"""What a direction holds, as rows for a person to read."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from asyrp_lit.hspace.attribute import Attribute
from asyrp_lit.hspace.direction import DirectionInfo
from asyrp_lit.hspace.released import ReleasedDirection
from asyrp_lit.hspace.released_names import CATEGORIES, ReleasedName

_UNKNOWN = "the file name does not say"


def _count_parameters(direction: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in direction.parameters()):,}"


def _join(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def _describe_arguments(kind: str, arguments: Mapping[str, Any]) -> str:
    parts = {key: value for key, value in arguments.items() if key != "timesteps" and value is not None}
    return f"{kind} ({_join(parts)})" if parts else kind


def tabulate_direction(direction: nn.Module, info: DirectionInfo) -> dict[str, str]:
    """Rows for a direction file, name to value."""
    start = f", t_start {info.t_start}" if info.t_start < 1000 else ""
    rows = {
        "format": f"asyrp_lit direction file, version {info.format_version}",
        "attribute": info.attribute,
        "texts": f"{info.src_text} -> {info.trg_text}" if info.trg_text else "none",
        "base model": f"{info.base_model} ({info.base_fingerprint})",
        "interval": f"t_edit {info.t_edit}, t_boost {info.t_boost}{start}",
        "steps": str(info.num_steps),
        "kind": _describe_arguments(info.kind, info.arguments),
        "parameters": _count_parameters(direction),
        "loss": _join(info.loss) or "not known",
        "metrics": _join(info.metrics) or "none",
    }
    return rows | ({"source": _join(info.source)} if info.source else {})


def tabulate_released(
    released: ReleasedDirection, name: ReleasedName | None, attribute: Attribute | None
) -> dict[str, str]:
    """Rows for a released file; its tensors tell the kind, its name the rest."""
    rows = {
        "format": "released f_t file (state dict, optimiser, scheduler)",
        "attribute": attribute.name if attribute else name.attribute if name else _UNKNOWN,
        "texts": f"{attribute.src_text} -> {attribute.trg_text}" if attribute else "not known",
        "category": name.category if name else _UNKNOWN,
        "steps": str(name.num_steps) if name else _UNKNOWN,
        "kind": _describe_arguments(released.kind, released.arguments),
        "parameters": _count_parameters(released.direction),
        "sha256": released.sha256,
    }
    if name and name.category in CATEGORIES:
        category = CATEGORIES[name.category]
        rows["base model"] = category.base_model
        rows["interval"] = f"from the published curves {category.curves} and cos_text, on import"
    return rows
