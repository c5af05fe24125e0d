"""Frozen networks, loaded once a process: the jobs of a sweep that one worker runs after another share them."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class _Kept(NamedTuple):
    key: str
    network: nn.Module
    dtypes: list[torch.dtype]


#: The last network of each kind. One each, so that a sweep over many models needs no more memory than one job.
_KEPT: dict[str, _Kept] = {}


def share_frozen(kind: str, settings: Any, load: Callable[[], Network]) -> Network:
    """The network that ``load`` makes, or the last of its kind if that was made from equal settings.

    Callers get the same object, so nobody may change its weights. Who needs it on a device moves it there: Lightning
    leaves it on the CPU. One that was cast since (``precision: bf16-true`` does) is loaded anew.

    Args:
        kind: ``unet`` or ``clip``; one network of each is kept.
        settings: everything that the network depends on, as JSON can write it.
        load: what makes it; an error of it is raised and nothing is kept.
    """
    key = json.dumps(settings, sort_keys=True)
    kept = _KEPT.get(kind)
    if kept is None or kept.key != key or kept.dtypes != _list_dtypes(kept.network):
        _KEPT.pop(kind, None)  # first, so that the two are never in memory together
        del kept
        network = load()
        _KEPT[kind] = _Kept(key, network, _list_dtypes(network))
    return _KEPT[kind].network  # type: ignore[return-value]


def _list_dtypes(network: nn.Module) -> list[torch.dtype]:
    return [tensor.dtype for tensor in network.state_dict().values()]
