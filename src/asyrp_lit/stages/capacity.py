"""Batch sizes that are to be found: ``auto`` in ``cfg`` becomes a number."""

import logging

from omegaconf import DictConfig, OmegaConf

from asyrp_lit.models.capacity import find_largest_on, try_sampling
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.stages.device import autocast_as, count_processes, pick_device
from asyrp_lit.training.asyrp import AsyrpModule

log = logging.getLogger(__name__)

AUTO = "auto"
#: Images at a time on a CPU, where memory is no measure and more are not faster: without a graph, and with one.
ON_CPU = {"inversion_batch_size": 16, "method.batch_size": 4, "method.chunk_size": 4}
#: More are not looked for: passes are no faster beyond, and fewer updates train less.
MOST = {"inversion_batch_size": 256, "method.batch_size": 32, "method.chunk_size": 256}


def find_sampling_size(cfg: DictConfig, model: HSpaceUNet) -> None:
    """Put the number of images that fit a pass without a graph in the place of ``inversion_batch_size=auto``."""
    if cfg.inversion_batch_size != AUTO:
        return
    device, name = pick_device(cfg), "inversion_batch_size"
    found = ON_CPU[name]
    if device.type == "cuda":
        with autocast_as(cfg):
            found = find_largest_on(device, lambda size: try_sampling(model, size, device), MOST[name])
    cfg.inversion_batch_size = found
    log.info("%s=auto: %d", name, found)


def check_shared_sizes(cfg: DictConfig) -> None:
    """See that several processes which train together do not each find a size that they must share.

    Raises:
        ValueError: ``method.batch_size`` or, for validation's batches, ``inversion_batch_size`` is ``auto``.
    """
    for name in ("method.batch_size", "inversion_batch_size"):
        if OmegaConf.select(cfg, name) == AUTO and count_processes(cfg) > 1:
            raise ValueError(
                f"{name}=auto is for one process: give a number, for the batches of processes that train together must "
                "be equal; method.chunk_size=auto may go with it"
            )


def find_training_sizes(cfg: DictConfig, module: AsyrpModule, num_images: int, kept: int | None) -> None:
    """The same for ``method.batch_size`` and ``method.chunk_size``.

    Args:
        cfg: the run's.
        module: on the CPU still; it is moved.
        num_images: that are trained on; a batch has an eighth of them at the most.
        kept: images per update of the checkpoint that the run goes on from, which stay.
    """
    method = cfg.method
    if AUTO not in (method.batch_size, method.chunk_size):
        return
    device = pick_device(cfg)
    found: int | None = None
    if device.type == "cuda":
        module.to(device)
        with autocast_as(cfg):
            found = find_largest_on(device, module.try_update, MOST["method.chunk_size"])
    if method.batch_size == AUTO:
        most = max(1, num_images // 8)
        method.batch_size = kept or min(found or ON_CPU["method.batch_size"], MOST["method.batch_size"], most)
        log.info("method.batch_size=auto: %d", method.batch_size)
    if method.chunk_size == AUTO:
        method.chunk_size = min(found or ON_CPU["method.chunk_size"], method.batch_size)
        log.info("method.chunk_size=auto: %d", method.chunk_size)
    module.chunk_size = method.chunk_size
