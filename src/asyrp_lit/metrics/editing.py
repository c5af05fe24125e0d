"""What an edit did, as torchmetrics: pure reducers over embeddings, distances, images and labels.

The networks stay outside: a metric that holds one would put it into ``parameters()`` and into checkpoints. Every metric
here is a mean over images kept as a sum and a count, so that batches and processes of unequal size weigh right.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric

from asyrp_lit.data.avatars.traits import LABELS, UNDEFINED, check_label
from asyrp_lit.losses.directional import directional_cosine
from asyrp_lit.shapes import Embeddings, Images, Labels, PerSample

#: Label name -> the wanted class or classes.
Target = Mapping[str, str | Sequence[str]]
#: Label -> the labels that an edit of it may define or undefine: hair colour comes and goes with hair.
DEPENDENTS = {"hair_length": ("hair_color",)}


def image_psnr(x: Images, y: Images) -> PerSample:
    """Peak signal-to-noise ratio in dB of images in [-1, 1] (peak 2); infinite for equal images, nothing is clamped."""
    return 10 * torch.log10(4 / (x - y).square().flatten(1).mean(dim=1))


def class_indices(target: Target) -> dict[int, list[int]]:
    """Column in the label tensor -> wanted class indices.

    Raises:
        ValueError: the target is empty, or a label or class does not exist.
    """
    if not target:
        raise ValueError("target is empty; name at least one label and its wanted class, as in {'beard': 'yes'}")
    indices: dict[int, list[int]] = {}
    for name, wanted in target.items():
        classes = [wanted] if isinstance(wanted, str) else list(wanted)
        for value in classes:
            check_label(name, value)
        indices[list(LABELS).index(name)] = [LABELS[name].index(value) for value in classes]
    return indices


def meets_target(labels: Labels, target: Target) -> Bool[Tensor, " batch"]:
    """Whether each image carries a wanted class for every label of the target; an undefined label (-1) fails.

    Args:
        labels: (B, 6) class indices in the order of ``LABELS``.
        target: label name -> class name or several.

    Raises:
        ValueError: the target is empty, or a label or class does not exist.
    """
    met = [
        torch.isin(labels[:, column], labels.new_tensor(classes)) for column, classes in class_indices(target).items()
    ]
    return torch.stack(met).all(dim=0)


def target_probability(logits: Mapping[str, Tensor], target: Target) -> PerSample:
    """How sure the oracle is that each image carries a wanted class for every label of the target, in [0, 1].

    The product over the target's labels of the probability of their wanted classes, as if labels were independent. A
    hair colour is undefined on a bald head, where ``meets_target`` fails it: the probability of hair is a factor then.

    Args:
        logits: label name -> (B, classes), from ``AttributeOracle``.
        target: label name -> class name or several.

    Raises:
        ValueError: the target is empty, or a label or class does not exist.
    """
    names = list(LABELS)
    wanted = {names[column]: classes for column, classes in class_indices(target).items()}
    shares = [logits[name].softmax(-1)[:, classes].sum(-1) for name, classes in wanted.items()]
    if "hair_color" in wanted:
        shares.append(1 - logits["hair_length"].softmax(-1)[:, LABELS["hair_length"].index("bald")])
    return torch.stack(shares).prod(dim=0).clamp(0, 1)


def preserved_share(source_labels: Labels, edit_labels: Labels, target: Target) -> PerSample:
    """Share of the other labels that the edit left as they were, per image, in [0, 1].

    Left out are the target's labels, those that depend on them (``DEPENDENTS``) and those that are undefined (-1) on
    the source. A label that was defined and became undefined counts as changed. NaN where no label is left to compare.

    Args:
        source_labels: (B, 6) the oracle's labels of the unedited images.
        edit_labels: (B, 6) the oracle's labels of the edited images.
        target: what the edit was to change.

    Raises:
        ValueError: the target is empty, or a label or class does not exist.
    """
    touched = set(class_indices(target)) | {list(LABELS).index(d) for name in target for d in DEPENDENTS.get(name, ())}
    others = [column for column in range(len(LABELS)) if column not in touched]
    source, edit = source_labels[:, others], edit_labels[:, others]
    counted = source != UNDEFINED
    return ((source == edit) & counted).sum(dim=1) / counted.sum(dim=1)


def _check_pair(first: Tensor, second: Tensor, names: str) -> None:
    if first.shape != second.shape:
        raise ValueError(f"{names} must have one shape, but are {tuple(first.shape)} and {tuple(second.shape)}")


class MeanOverImages(Metric):
    """Mean of one number per image; NaN before the first image."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: PerSample) -> None:
        """Take in the numbers of some images; NaN and infinity are kept and show in the mean."""
        self.total += values.detach().float().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """The mean as a scalar tensor."""
        return self.total / self.count


class DirectionalSimilarity(MeanOverImages):
    """Mean cosine in [-1, 1] of the image direction and the text direction, higher is better.

    Conventions differ between papers by an order of magnitude: report it with the CLIP model, the templates and which
    image is the source.

    Args:
        text_direction: target minus source text features, (D,) or (1, D), any length but 0.

    Raises:
        ValueError: ``text_direction`` is not one non-zero vector.
    """

    higher_is_better = True

    def __init__(self, text_direction: Tensor) -> None:
        super().__init__()
        if text_direction.numel() != text_direction.shape[-1] or not text_direction.any():
            raise ValueError(f"text_direction must be one non-zero vector (D,), but is {tuple(text_direction.shape)}")
        # A plain attribute and no buffer: it belongs to the run's texts and not to the checkpoint.
        self.text_direction = F.normalize(text_direction.detach().float().view(1, -1), dim=-1)

    def update(self, source_embeddings: Embeddings, edit_embeddings: Embeddings) -> None:
        """Take in CLIP embeddings (B, D) of the source and of the edited images, of any length.

        Where both are equal nothing moved and the cosine is 0.
        """
        _check_pair(source_embeddings, edit_embeddings, "source_embeddings and edit_embeddings")
        source, edit = (F.normalize(e.float(), dim=-1) for e in (source_embeddings, edit_embeddings))
        self.add(directional_cosine(edit, source, self.text_direction.to(edit.device)))


class EditLPIPS(MeanOverImages):
    """Mean LPIPS distance of edit and source, 0 or more, lower means closer to the source (not a better edit)."""

    higher_is_better = False

    def update(self, distances: PerSample) -> None:
        """Take in the distances (B,) from ``losses.perceptual.FrozenLPIPS``."""
        self.add(distances)


class ImagePSNR(MeanOverImages):
    """Mean over images of each image's own PSNR in dB, higher is better; infinite when any pair is equal.

    This is not the PSNR of the pooled squared error, which is lower.
    """

    higher_is_better = True

    def update(self, x: Images, y: Images) -> None:
        """Take in pairs of images in [-1, 1]."""
        _check_pair(x, y, "x and y")
        self.add(image_psnr(x, y))


class OracleMetric(MeanOverImages):
    """What the oracle says of edits towards a target; higher is better.

    Args:
        target: label name -> class name or several; all labels must be met.

    Raises:
        ValueError: the target is empty, or a label or class does not exist.
    """

    higher_is_better = True

    def __init__(self, target: Target) -> None:
        super().__init__()
        class_indices(target)
        self.target = dict(target)


class OracleSuccess(OracleMetric):
    """Share in [0, 1] of edited images that meet the target."""

    def update(self, edit_labels: Labels) -> None:
        """Take in the oracle's labels (B, 6) of edited images."""
        self.add(meets_target(edit_labels, self.target).float())


class OraclePreservation(OracleMetric):
    """Mean over images of ``preserved_share``, in [0, 1]; images with nothing to compare are left out."""

    def update(self, source_labels: Labels, edit_labels: Labels) -> None:
        """Take in the oracle's labels (B, 6) of the unedited and of the edited images."""
        _check_pair(source_labels, edit_labels, "source_labels and edit_labels")
        shares = preserved_share(source_labels, edit_labels, self.target)
        self.add(shares[~shares.isnan()])


class OracleScore(MeanOverImages):
    """Mean over images of ``target_probability``, in [0, 1]: moves before the verdict does; higher is better."""

    higher_is_better = True

    def update(self, probabilities: PerSample) -> None:
        """Take in the probabilities (B,) of edited images."""
        self.add(probabilities)
