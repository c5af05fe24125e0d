"""Weights of a frozen network in autocast's type, cast once instead of in every pass."""

import copy

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

#: What autocast computes in its lower type.
_CAST = (nn.Conv2d, nn.Linear)
#: Where torch keeps a module's hooks on its calls, and what it knows of them.
_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)


class LoweredCopy:
    """Gives a network, or within autocast its copy with lower weights; results are bit-equal.

    Autocast keeps its casts of weights only where they are trained, so it would cast frozen ones anew in every pass.
    The copy costs half the memory of the weights, follows where they are moved and what is written to them (but through
    ``.data``, which torch does not count), and shares all else.
    """

    def __init__(self) -> None:
        self._made_from: tuple[object, ...] = ()
        self._copy: UNet2DModel | None = None

    def choose(self, unet: UNet2DModel, device_type: str) -> UNet2DModel:
        """The network to use here, on inputs of that type of device."""
        if not torch.is_autocast_enabled(device_type):
            return unet
        dtype = torch.get_autocast_dtype(device_type)
        state = (dtype, id(unet), *map(_identify, unet.parameters()))
        if self._copy is None or state != self._made_from:
            self._copy = None  # first, so that there are never two
            self._copy, self._made_from = lower_weights(unet, dtype), state
        return self._copy


def _identify(weight: Tensor) -> tuple[int, int]:
    """Changes when a weight is moved or written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


@torch.inference_mode(False)
def lower_weights(unet: UNet2DModel, dtype: torch.dtype) -> UNet2DModel:
    """A copy with the weights of convolutions and linear maps in another type, but for the last layer's.

    What is not cast is shared, as are the forward hooks, also those that come later.
    """
    cast = [m for m in unet.modules() if isinstance(m, _CAST) and m is not unet.conv_out]
    shared: dict[int, object] = {id(weight): weight for weight in unet.parameters()}
    for module in unet.modules():
        shared |= {id(hooks): hooks for hooks in (getattr(module, name) for name in _HOOKS)}
    for module in cast:
        for weight in module.parameters():
            if weight.dtype == torch.float32:
                shared[id(weight)] = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    lowered: UNet2DModel = copy.deepcopy(unet, shared)
    return lowered
