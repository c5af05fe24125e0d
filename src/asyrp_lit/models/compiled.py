"""torch.compile for the halves of a frozen network: batches of any size, no recompiling in a loop."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: What the setting ``compile`` may be; a name is one of torch.compile's modes.
MODES = (False, True, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
#: Modes that replay CUDA graphs, whose outputs the next call overwrites.
_GRAPHED = ("reduce-overhead", "max-autotune")
#: Compiled versions of one function: with and without a gradient, inference mode, autocast, delta_h, a single image.
_VERSIONS = 64


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function without what checks its types in tests: that would be compiled, too."""
    bare: Callable[..., Any] = inspect.unwrap(function)
    return bare


def compile_half(function: Callable[..., Any], mode: bool | str, backend: str = "inductor") -> Callable[..., Any]:
    """A function of a network and tensors, compiled when it is first called.

    The first dimension of tensors may change from call to call; one image has a version of its own.

    Args:
        function: takes the network, then tensors, tuples of them or ``None``; its outputs are such too.
        mode: one of ``MODES`` but ``False``.
        backend: torch.compile's; tests take one that needs no compiler.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VERSIONS)
    chosen = mode if isinstance(mode, str) else None
    compiled = torch.compile(unchecked(function), backend=backend, mode=chosen)

    def call(network: torch.nn.Module, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():  # jvp and vjp do not go through compiled code
            return function(network, *arguments)
        weight = next(network.parameters())
        last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
        arguments = _map_tensors(lambda tensor: _prepare(tensor, last), arguments)
        if weight.device.type != "cuda" or chosen not in _GRAPHED:
            return compiled(network, *arguments)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return _map_tensors(torch.clone, compiled(network, *arguments))

    return call


def _map_tensors(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(_map_tensors(change, value) for value in values)
    return change(values) if isinstance(values, Tensor) else values


def _prepare(tensor: Tensor, channels_last: bool) -> Tensor:
    """The same in the network's strides, free in its first dimension: neither may be a reason to compile anew."""
    last = channels_last and tensor.ndim == 4
    tensor = tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    if len(tensor) > 1:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return tensor


def check_compiler(device: torch.device, mode: bool | str) -> None:
    """Compile and run a trifle, seconds instead of the minutes until a network would fail.

    Raises:
        ValueError: the compiler for that device is missing or does not work.
    """
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        needed = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler such as g++"
        reason = " ".join(str(error).split("Set TORCHDYNAMO")[0].split())[:200]
        raise ValueError(
            f"compile={str(mode).lower()} needs {needed}, and on this machine it does not work "
            f"({reason}): install it, or take compile=false"
        ) from error
