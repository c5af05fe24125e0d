"""The LightningModule: trains a direction in h-space of a frozen diffusion model (Asyrp, section 3)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from asyrp_lit.data.datamodule import LatentBatch, LatentsDataModule
from asyrp_lit.diffusion.asyrp import Interval, step_asyrp
from asyrp_lit.diffusion.ddim import compute_pred_x0, step_ddim
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod
from asyrp_lit.editing.sample import descend, full_timesteps, sample_images
from asyrp_lit.editing.strips import name_strength
from asyrp_lit.losses.clip import FrozenCLIP
from asyrp_lit.losses.directional import LossForm, directional_cosine, directional_loss, reconstruction_loss
from asyrp_lit.metrics.panel import MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Embeddings, Images, PerSample

#: What to do when a training diverges.
ADVICE = "lower method.optimizer.lr; last.ckpt in the run folder, if a batch was finished, is from before"

ClipSource = Literal["x_0", "pred_x0"]


@dataclass(frozen=True)
class LossRecipe:
    """What is minimised: w_clip * directional(P_edit) + w_l1 * cos_text * mean|P_edit - P_source|.

    Attributes:
        w_clip: weight of the directional CLIP loss.
        w_l1: weight of the reconstruction term, before cos_text.
        form: ``log`` as in the released code, ``cosine`` as in the paper.
        clip_source: the source image of the CLIP direction: the real ``x_0`` (released code) or P_t of the unedited
            trajectory, ``pred_x0`` (paper).

    Raises:
        ValueError: a choice does not exist, or a weight is negative.
    """

    w_clip: float = 1.0
    w_l1: float = 3.0
    form: LossForm = "log"
    clip_source: ClipSource = "x_0"

    def __post_init__(self) -> None:
        for name, allowed in (("form", get_args(LossForm)), ("clip_source", get_args(ClipSource))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"method.loss.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("w_clip", "w_l1"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"method.loss.{name} must be 0 or more, got {getattr(self, name)!r}")


class Objective(NamedTuple):
    """Loss per sample and its parts."""

    total: PerSample
    clip: PerSample
    l1: PerSample


class AsyrpModule(LightningModule):
    """Owns the frozen U-Net and CLIP and trains the direction, one optimiser step per (batch, timestep).

    Each step: one encode, the decode of eps without a graph, the decode of eps_edit with one; its backward runs through
    that decoder alone. The states are detached between steps. Checkpoints hold the direction only.

    Args:
        model: frozen base model.
        clip: frozen CLIP.
        direction: what is trained.
        text_direction: dT, (1, D).
        cos_text: cosine of the bare prompts.
        grid: ascending timesteps of the generative process; training uses those with t >= t_edit.
        interval: t_edit and t_boost.
        recipe: the loss.
        make_optimizer: parameters -> optimiser.
        lr_decay: factor on the learning rate after every pass over the images.
        grad_clip: largest norm of the gradient; ``None`` does not clip.
        panel: validation metrics; ``None`` validates nothing.
    """

    text_direction: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self,
        model: HSpaceUNet,
        clip: FrozenCLIP,
        direction: nn.Module,
        text_direction: Embeddings,
        cos_text: float,
        grid: tuple[int, ...],
        interval: Interval,
        recipe: LossRecipe,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_decay: float = 1.0,
        grad_clip: float | None = None,
        panel: MetricPanel | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.clip = clip
        self.direction = direction
        self.grid = grid
        self.interval = interval
        self.recipe = recipe
        self.cos_text = cos_text
        self.make_optimizer = make_optimizer
        self.lr_decay = lr_decay
        self.grad_clip = grad_clip
        self.panel = panel
        self.register_buffer("text_direction", text_direction)
        self.register_buffer("alphas_cumprod", make_alphas_cumprod())

    @property
    def train_steps(self) -> list[tuple[int, int]]:
        """Pairs (t, t_prev) with t >= t_edit, from the noisiest down."""
        return [(t, t_prev) for t, t_prev in descend(self.grid) if t >= self.interval.t_edit]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The direction alone."""
        return {f"direction.{key}": value for key, value in self.direction.state_dict().items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load the direction, strictly."""
        own = {key.removeprefix("direction."): value for key, value in state_dict.items()}
        return self.direction.load_state_dict(own, strict=strict, assign=assign)

    def compute_objective(
        self, pred_x0_edit: Images, pred_x0_source: Images, source_embeddings: Embeddings
    ) -> Objective:
        """The loss per sample.

        Args:
            pred_x0_edit: P_t with the edit, carries the graph.
            pred_x0_source: P_t of the unedited trajectory.
            source_embeddings: CLIP embeddings of each sample's own source image.
        """
        edit_embeddings = self.clip.encode_images(pred_x0_edit)
        cosine = directional_cosine(edit_embeddings, source_embeddings, self.text_direction)
        clip = directional_loss(cosine, self.recipe.form)
        l1 = reconstruction_loss(pred_x0_edit, pred_x0_source)
        return Objective(self.recipe.w_clip * clip + self.recipe.w_l1 * self.cos_text * l1, clip, l1)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> None:
        """One trajectory from x_T down to t_edit, an update at every timestep."""
        with torch.no_grad():
            x_0_embeddings = self.clip.encode_images(batch.x_0)
        x, x_source = batch.x_T, batch.x_T
        parts: list[Tensor] = []
        for k, (t, t_prev) in enumerate(self.train_steps):
            steps = full_timesteps(t, x)
            alphas = (
                gather_alpha_bar(self.alphas_cumprod, steps),
                gather_alpha_bar(self.alphas_cumprod, torch.full_like(steps, t_prev)),
            )
            pred_x0_source, x_source = self._follow_source(batch, x_source, steps, alphas, k)
            source_embeddings = x_0_embeddings
            if self.recipe.clip_source == "pred_x0":
                with torch.no_grad():
                    source_embeddings = self.clip.encode_images(pred_x0_source)
            x, objective = self._train_at(x, steps, alphas, pred_x0_source, source_embeddings)
            parts.append(torch.stack([part.detach().mean() for part in objective]))
        means = dict(zip(("train/loss", "train/clip", "train/l1"), torch.stack(parts).mean(dim=0), strict=True))
        self.log_dict(means, prog_bar=True, on_step=True, batch_size=len(x))

    def _follow_source(
        self, batch: LatentBatch, x_source: Images, steps: Tensor, alphas: tuple[Tensor, Tensor], k: int
    ) -> tuple[Images, Images]:
        """P_t of the unedited trajectory at the k-th training step, and its next state when it is not cached."""
        if batch.pred_x0 is not None:
            return batch.pred_x0[:, k].float(), x_source
        with torch.no_grad():
            eps = self.model(x_source, steps).float()
        return compute_pred_x0(x_source, eps, alphas[0]), step_ddim(x_source, eps, *alphas)

    def _train_at(
        self, x: Images, steps: Tensor, alphas: tuple[Tensor, Tensor], pred_x0_source: Images, source: Embeddings
    ) -> tuple[Images, Objective]:
        """One optimiser step at one timestep; the next state of the edited trajectory, and the loss."""
        with torch.no_grad():
            bottleneck = self.model.encode(x, steps)
            eps = self.model.decode(bottleneck).float()
        delta_h = self.direction(bottleneck.h, bottleneck.temb, steps)
        eps_edit = self.model.decode(bottleneck, delta_h).float()
        objective = self.compute_objective(compute_pred_x0(x, eps_edit, alphas[0]), pred_x0_source, source)
        self._update(objective.total.mean())
        return step_asyrp(x, eps, eps_edit.detach(), *alphas), objective

    def _update(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss became {loss.item()} after {self.global_step} updates; {ADVICE}")
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.direction.parameters(), self.grad_clip)
        optimizer.step()
        if not torch.stack([parameter.isfinite().all() for parameter in self.direction.parameters()]).all():
            raise FloatingPointError(f"an update made the direction NaN or infinite; {ADVICE}")

    def validation_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Images] | None:
        """Reconstruct, edit at strength 1 and judge."""
        if self.panel is None:
            return None
        seeds = [int(i) for i in batch.index]
        common = (self.model, batch.x_T, self.grid, self.alphas_cumprod)
        reconstruction = sample_images(*common)
        edit = sample_images(*common, self.direction, self.interval, seeds)
        real = batch.is_real
        self.panel.update(batch.x_0[real], reconstruction[real], edit[real])
        return {"source": batch.x_0, "reconstruction": reconstruction, name_strength(1.0): edit}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all images of all processes."""
        if self.panel is not None:
            self.log_dict({f"val/{name}": value for name, value in self.panel.compute().items()})
            self.panel.reset()

    def on_fit_start(self) -> None:
        """See that the P_t kept with the latents are those of the training steps.

        Raises:
            ValueError: they are of other timesteps.
        """
        data = getattr(self.trainer, "datamodule", None)
        kept = data.stores["train"].key.pred_x0_steps if isinstance(data, LatentsDataModule) else ()
        wanted = tuple(t for t, _ in self.train_steps)
        if kept and kept[: len(wanted)] != wanted:
            raise ValueError(
                f"the train store keeps P_t at t = {', '.join(map(str, kept))}, but training down to t_edit = "
                f"{self.interval.t_edit} needs {', '.join(map(str, wanted))}: fill a store for this interval"
            )

    def on_train_batch_start(self, batch: LatentBatch, batch_idx: int) -> None:
        """Set the learning rate from the number of the pass alone: a resume loses no decay and may change the rate."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for group, lr in zip(optimizer.param_groups, self._first_lrs, strict=True):
            group["lr"] = lr * self.lr_decay**self.current_epoch

    def configure_optimizers(self) -> Optimizer:
        """The optimiser over the direction alone."""
        optimizer = self.make_optimizer(self.direction.parameters())
        self._first_lrs = [group["lr"] for group in optimizer.param_groups]
        return optimizer
