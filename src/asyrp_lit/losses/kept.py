"""What an edit shall leave alone, as CLIP reads it: zero-shot probabilities before and after.

Not in Asyrp's paper. Its L1 term resists every change alike, the wanted one too, so it cannot tell a beard from another
skin colour; words can.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.shapes import Embeddings, PerSample


class KeptReadings(nn.Module):
    """Divergence of CLIP's zero-shot probabilities over groups of prompts, between an image and its edit.

    Args:
        clip: gives the embeddings of the prompts and the scale of its logits.
        groups: prompts that exclude each other, such as ``("person with glasses", "person with no glasses")``.

    Raises:
        ValueError: no group, or one with fewer than two prompts.
    """

    def __init__(self, clip: FrozenCLIP, groups: Sequence[Sequence[str]]) -> None:
        super().__init__()
        if not groups or any(len(group) < 2 for group in groups):
            raise ValueError(f"attr.keep needs groups of two or more prompts each, got {[list(g) for g in groups]}")
        self.num_groups = len(groups)
        self.scale = clip.logit_scale
        for k, group in enumerate(groups):
            self.register_buffer(f"prompts_{k}", clip.encode_texts(group))

    def read(self, embeddings: Embeddings, k: int = 0) -> Float[Tensor, "batch prompts"]:
        """Log-probabilities of the prompts of group k."""
        return log_softmax(self.scale * embeddings @ self.get_buffer(f"prompts_{k}").T, dim=-1)

    def forward(self, edit: Embeddings, source: Embeddings) -> PerSample:
        """KL(source || edit) in nats, 0 or more, the mean over the groups; both embeddings of unit length."""
        divergences = [
            kl_div(self.read(edit, k), self.read(source, k), log_target=True, reduction="none").sum(dim=-1)
            for k in range(self.num_groups)
        ]
        return torch.stack(divergences).mean(dim=0)
