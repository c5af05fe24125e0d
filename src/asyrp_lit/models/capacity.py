"""How many images fit on a device at once."""

import gc
from collections.abc import Callable

import torch

from asyrp_lit.models.hspace_unet import HSpaceUNet

#: Share of a GPU's memory that a probe may take, so that a run has room for what the probe does not see.
ROOM = 0.9


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or a CPU had no room; on a CPU, and from CUDA's libraries, that is a plain RuntimeError."""
    named = any(name in str(error) for name in ("DefaultCPUAllocator", "ALLOC_FAILED"))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (isinstance(error, RuntimeError) and named)


def find_largest(attempt: Callable[[int], object], at_most: int) -> int:
    """The largest of 1, 2, 4, ... up to a limit with which something fits into memory.

    Args:
        attempt: does it with so many images; raises what ``is_out_of_memory`` knows where they do not fit.
        at_most: tried no further.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    largest = 0
    while (wanted := 2 * largest or 1) <= at_most:
        try:
            attempt(wanted)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        largest = wanted
    if not largest:
        raise torch.OutOfMemoryError("not even one image fits into the memory of this device")
    return largest


def find_largest_on(device: torch.device, attempt: Callable[[int], object], at_most: int) -> int:
    """``find_largest`` within ``ROOM`` of a GPU's memory."""
    torch.cuda.set_per_process_memory_fraction(ROOM, device)
    try:
        return find_largest(attempt, at_most)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@torch.inference_mode()
def try_sampling(model: HSpaceUNet, num_images: int, device: torch.device) -> None:
    """One step of an edit: one encode and both decodes; inversion takes less.

    Raises:
        torch.OutOfMemoryError: they do not fit.
    """
    x = torch.zeros(num_images, model.unet.config.in_channels, model.image_size, model.image_size, device=device)
    bottleneck = model.encode(x, torch.zeros(num_images, dtype=torch.int64, device=device))
    model.decode(bottleneck.repeat(2))
