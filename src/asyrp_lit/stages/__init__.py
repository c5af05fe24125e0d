"""The stages behind the scripts: the only room that sees ``cfg``."""

from asyrp_lit.stages.directions import directions
from asyrp_lit.stages.discover import discover
from asyrp_lit.stages.judge import check_texts, evaluate
from asyrp_lit.stages.pretrain import export, pretrain
from asyrp_lit.stages.train import invert, train
from asyrp_lit.stages.weights import weights

__all__ = ["check_texts", "directions", "discover", "evaluate", "export", "invert", "pretrain", "train", "weights"]
