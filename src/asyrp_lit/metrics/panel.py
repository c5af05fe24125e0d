"""All validation metrics of an edit in one place: runs the frozen judges and feeds the reducers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.perceptual import FrozenLPIPS
from asyrp_lit.metrics.editing import (
    DirectionalSimilarity,
    EditLPIPS,
    ImagePSNR,
    OraclePreservation,
    OracleScore,
    OracleSuccess,
    target_probability,
)
from asyrp_lit.metrics.oracle import AttributeOracle
from asyrp_lit.shapes import Embeddings, Images


@dataclass(frozen=True)
class Judges:
    """The frozen networks that judge edits.

    Attributes:
        clip: the CLIP of training; ``None`` where its weights are not at hand, for metrics without it.
        lpips: perceptual distance.
        oracle: reads labels; ``None`` on domains without one.
    """

    clip: FrozenCLIP | None
    lpips: FrozenLPIPS
    oracle: AttributeOracle | None = None

    def to(self, device: torch.device) -> None:
        """Move all of them."""
        for judge in (self.clip, self.lpips, self.oracle):
            if judge is not None:
                judge.to(device)


class MetricPanel(nn.Module):
    """Directional cosine, LPIPS and PSNR of edits and reconstructions, and the oracle's verdict where there is one.

    ``oracle_score`` is the oracle's probability of the target and ``success`` its verdict;
    ``reconstruction_preservation`` is what inversion and back alone leave unchanged: the most that an edit can reach.

    Args:
        judges: frozen networks; kept out of ``parameters()`` and checkpoints.
        text_direction: dT, (1, D); ``None`` for a direction without texts, which CLIP does not judge.
        target: label classes that make an edit a success; ``None`` when the oracle does not judge.
    """

    def __init__(
        self,
        judges: Judges,
        text_direction: Embeddings | None,
        target: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self._judges = judges
        self.reducers = nn.ModuleDict()
        if text_direction is not None:
            self.reducers["directional_cosine"] = DirectionalSimilarity(text_direction)
        self.reducers["edit_lpips"] = EditLPIPS()
        self.reducers["reconstruction_lpips"] = EditLPIPS()
        self.reducers["reconstruction_psnr"] = ImagePSNR()
        self.target = None if judges.oracle is None else target
        if target is not None and judges.oracle is not None:
            self.reducers["oracle_score"] = OracleScore()
            self.reducers["success"] = OracleSuccess(target)
            self.reducers["preservation"] = OraclePreservation(target)
            self.reducers["reconstruction_preservation"] = OraclePreservation(target)

    @torch.no_grad()
    def update(self, source: Images, reconstruction: Images, edit: Images) -> None:
        """Take in a batch of source images, their plain reconstructions and their edits, all in [-1, 1]."""
        judges, reducers = self._judges, dict(self._named())
        judges.to(source.device)
        source, reconstruction, edit = (x.float().clamp(-1, 1) for x in (source, reconstruction, edit))
        if "directional_cosine" in reducers:
            assert judges.clip is not None
            reducers["directional_cosine"].update(judges.clip.encode_images(source), judges.clip.encode_images(edit))
        reducers["edit_lpips"].update(judges.lpips(edit, source))
        reducers["reconstruction_lpips"].update(judges.lpips(reconstruction, source))
        reducers["reconstruction_psnr"].update(reconstruction, source)
        if self.target is not None:
            assert judges.oracle is not None
            reducers["oracle_score"].update(target_probability(judges.oracle(edit), self.target))
            source_labels, labels = judges.oracle.predict(source), judges.oracle.predict(edit)
            reducers["success"].update(labels)
            reducers["preservation"].update(source_labels, labels)
            reducers["reconstruction_preservation"].update(source_labels, judges.oracle.predict(reconstruction))

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name, over all images of all processes."""
        return {name: reducer.compute() for name, reducer in self._named()}

    def reset(self) -> None:
        """Start over."""
        for _, reducer in self._named():
            reducer.reset()

    def _named(self) -> list[tuple[str, Any]]:
        return list(self.reducers.items())
