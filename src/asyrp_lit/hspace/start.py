"""Where the training of a network for a direction begins."""

import torch

from asyrp_lit.hspace.eps_delta import EpsDelta
from asyrp_lit.hspace.f_t import ADMDelta, DDPMDelta

#: Directions that a network proposes.
DeltaNetwork = DDPMDelta | ADMDelta | EpsDelta


def scale_start(direction: DeltaNetwork, factor: float) -> None:
    """Scale the last convolution of an untrained network, and with it the random delta that training begins with.

    Args:
        direction: changed in place.
        factor: 1 keeps torch's default (the released code), 0 starts at the unedited process.
    """
    last = direction.out_layers[-1] if isinstance(direction, ADMDelta) else direction.conv2
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(factor)
