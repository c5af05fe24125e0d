"""What an edit did to each image, as numbers for a table."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from asyrp_lit.losses.directional import directional_cosine
from asyrp_lit.metrics.editing import Target, image_psnr, meets_target, preserved_share, target_probability
from asyrp_lit.metrics.panel import Judges
from asyrp_lit.shapes import Embedding, Images

#: Metric -> one number an image.
PerImage = dict[str, Tensor]


@torch.no_grad()
def judge_reconstruction(judges: Judges, source: Images, reconstruction: Images) -> PerImage:
    """LPIPS and PSNR of plain inversion and back, one number an image."""
    source, reconstruction = (x.float().clamp(-1, 1) for x in (source, reconstruction))
    return {
        "reconstruction_lpips": judges.lpips(reconstruction, source),
        "reconstruction_psnr": image_psnr(reconstruction, source),
    }


@torch.no_grad()
def judge_edit(
    judges: Judges,
    source: Images,
    edit: Images,
    text_directions: Mapping[str, Embedding],
    targets: Mapping[str, Target],
) -> PerImage:
    """LPIPS of edit and source, and for each direction its cosine and the oracle's verdict, one number an image.

    Args:
        judges: frozen networks; without a CLIP or an oracle what they judge is left out.
        source, edit: images in [-1, 1].
        text_directions: name of a direction -> dT; names are left out of the metrics where there is one.
        targets: name of a direction -> label classes that make it a success.

    Returns:
        ``edit_lpips``, ``directional_cosine``, ``oracle_score`` (the oracle's probability of the target), ``success``
        (1 or 0), ``preservation`` (of the labels that no target names; NaN where none is left). Of several targets
        those of each by name, and as ``success`` whether all are met.
    """
    source, edit = (x.float().clamp(-1, 1) for x in (source, edit))
    found = {"edit_lpips": judges.lpips(edit, source)}
    if judges.clip is not None and text_directions:
        embeddings = judges.clip.encode_images(edit), judges.clip.encode_images(source)
        for name, text_direction in text_directions.items():
            cosine = directional_cosine(*embeddings, text_direction.to(edit.device))
            found[_name("directional_cosine", name, len(text_directions))] = cosine
    if judges.oracle is not None and targets:
        source_labels, labels, logits = judges.oracle.predict(source), judges.oracle.predict(edit), judges.oracle(edit)
        verdicts = {name: meets_target(labels, target) for name, target in targets.items()}
        for name, target in targets.items():
            found[_name("oracle_score", name, len(targets))] = target_probability(logits, target)
            found[_name("success", name, len(targets))] = verdicts[name].float()
        found["success"] = torch.stack(list(verdicts.values())).all(dim=0).float()
        found["preservation"] = preserved_share(source_labels, labels, _merge(list(targets.values())))
    return found


def _name(metric: str, direction: str, num_directions: int) -> str:
    return metric if num_directions == 1 else f"{metric}/{direction}"


def _merge(targets: Sequence[Target]) -> Target:
    return {label: classes for target in targets for label, classes in target.items()}
