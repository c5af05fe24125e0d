"""Directions made stronger or weaker in place."""

from collections.abc import Iterable

import torch
from torch import nn

from asyrp_lit.hspace.eps_delta import EpsDelta
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta
from asyrp_lit.hspace.free_delta import GlobalDelta, PerTimestepDelta

#: Directions that a network proposes.
DeltaNetwork = DDPMDelta | ADMDelta | EpsDelta
#: Directions without a network.
FreeDelta = PerTimestepDelta | GlobalDelta


@torch.no_grad()
def scale_delta(direction: DeltaNetwork | FreeDelta, factor: float) -> None:
    """Multiply all that a direction proposes, by the last layer of its network or by its free delta_h.

    Args:
        direction: changed in place.
        factor: any number; before training 1 keeps torch's random start (the released code), 0 starts at the unedited
            process.
    """
    for parameter in _list_last(direction):
        parameter.mul_(factor)


def _list_last(direction: DeltaNetwork | FreeDelta) -> Iterable[nn.Parameter]:
    if isinstance(direction, PerTimestepDelta | GlobalDelta):
        return [direction.delta_h]
    last = direction.out_layers[-1] if isinstance(direction, ADMDelta) else direction.conv2
    return last.parameters()
