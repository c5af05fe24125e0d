"""The stages behind the scripts: the only room that sees ``cfg``."""

from omegaconf import OmegaConf

from asyrp_lit.stages.directions import directions
from asyrp_lit.stages.discover import discover
from asyrp_lit.stages.edit import edit
from asyrp_lit.stages.judge import check_texts, evaluate
from asyrp_lit.stages.launch import name_start
from asyrp_lit.stages.measure_interval import measure_interval
from asyrp_lit.stages.pretrain import export, pretrain
from asyrp_lit.stages.sweep_report import sweep_report
from asyrp_lit.stages.train import invert, train
from asyrp_lit.stages.weights import weights

__all__ = [
    "check_texts",
    "directions",
    "discover",
    "edit",
    "evaluate",
    "export",
    "invert",
    "measure_interval",
    "pretrain",
    "sweep_report",
    "train",
    "weights",
]

# ``${start:%H-%M-%S}`` in names of run folders; Hydra's own ``now`` is another in every process.
OmegaConf.register_new_resolver("start", name_start, use_cache=True, replace=True)
# Of a search's sampler: a kept search that goes on would draw its first trials again from a seed, a stopped one without
# a storage has to.
OmegaConf.register_new_resolver("seed_unless_kept", lambda storage: 0 if storage is None else None, replace=True)
