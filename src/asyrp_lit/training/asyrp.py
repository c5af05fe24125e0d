"""The LightningModule: trains a direction in h-space of a frozen diffusion model (Asyrp, section 3)."""

from collections.abc import Callable, Iterable, Iterator
from inspect import signature
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from asyrp_lit.data.datamodule import LatentBatch, LatentsDataModule
from asyrp_lit.diffusion.asyrp import Interval, step_asyrp
from asyrp_lit.diffusion.ddim import compute_pred_x0
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.sample import edit_eps
from asyrp_lit.editing.seeds import derive_seeds
from asyrp_lit.editing.strips import RECONSTRUCTION, name_strength, sample_strengths
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.metrics.panel import MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.shapes import Images
from asyrp_lit.training.keeps_slots import KeepsSlots
from asyrp_lit.training.objective import EditLoss, MeasuredDirection, Objective
from asyrp_lit.training.slots import (
    Slots,
    UpdateBatch,
    advance_unedited,
    choose_offsets,
    descend_to_start,
    follow_source,
    gather_alphas,
)
from asyrp_lit.training.strengths import draw_strengths

#: What to do when a training diverges.
ADVICE = "lower method.optimizer.lr; last.ckpt in the run folder, if a batch was finished, is from before"


class AsyrpModule(KeepsSlots):
    """Owns the frozen U-Net and CLIP and trains the direction, one optimiser step per (batch, timestep).

    Each step: one encode, the decode of eps without a graph, the decode of eps_edit with one; its backward runs through
    that decoder alone. The states are detached between steps. The state dict is the direction's alone; staggered,
    checkpoints also hold the images on their way.

    Args:
        model: frozen base model.
        direction: what is trained.
        loss: what it is trained with.
        grid: ascending timesteps of the generative process; training uses those of the interval.
        interval: t_edit, t_boost and t_start.
        make_optimizer: parameters -> optimiser.
        lr_decay: factor on the learning rate after every pass over the images.
        lr_final: factor that the learning rate falls to, linearly, by the last batch.
        stagger: whether the images of an update are at different timesteps, spread over the trajectory. Updates then
            do not follow one batch down: each sees other images and all timesteps, at the same number of passes.
        chunk_size: images of an update that go through the networks at once; ``None`` for all.
        grad_clip: largest norm of the gradient; ``None`` does not clip.
        panel: validation metrics; ``None`` validates nothing.
        judged: strength at which validation edits.
        train_strengths: range of the strengths that images are edited at in training; the paper's are all 1. What an
            edit below 0 shall do says ``loss.contrast``.
        seed: of the boosting noise in validation, with each image's own pixels.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        model: HSpaceUNet,
        direction: nn.Module,
        loss: EditLoss,
        grid: tuple[int, ...],
        interval: Interval,
        make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_decay: float = 1.0,
        lr_final: float = 1.0,
        stagger: bool = False,
        chunk_size: int | None = None,
        grad_clip: float | None = None,
        panel: MetricPanel | None = None,
        judged: float = 1.0,
        train_strengths: tuple[float, float] = (1.0, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__(grid, interval)
        self.automatic_optimization = False
        self.model = model
        self.direction = direction
        self.loss = loss
        #: What the direction was multiplied by after training.
        self.strength = 1.0
        self.make_optimizer = make_optimizer
        self.lr_decay = lr_decay
        self.lr_final = lr_final
        self.stagger = stagger
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"method.chunk_size must be null or at least 1, got {chunk_size}")
        self.chunk_size = chunk_size
        self.grad_clip = grad_clip
        self.panel = panel
        self.judged = judged
        self.train_strengths = train_strengths
        self.seed = seed
        self.register_buffer("alphas_cumprod", make_alphas_cumprod())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The direction alone."""
        return {f"direction.{key}": value for key, value in self.direction.state_dict().items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load the direction, strictly."""
        own = {key.removeprefix("direction."): value for key, value in state_dict.items()}
        return self.direction.load_state_dict(own, strict=strict, assign=assign)

    def training_step(self, batch: LatentBatch, batch_idx: int) -> None:
        """As many updates as there are training timesteps; on the way every slot takes in its image of the batch.

        Staggered, a slot's image goes on into the next batch's step. Else all start and end together.
        """
        with torch.no_grad():
            strength = draw_strengths(batch.index, self.current_epoch, *self.train_strengths)
            fresh = Slots.start(batch, self.loss.clip.encode_images(batch.x_0), strength)
        fresh = descend_to_start(fresh, self.lead_steps, self.alphas_cumprod, self.model)
        t, t_prev = torch.tensor(self.train_steps, device=self.device).unbind(dim=1)
        objectives = self._train_chain(fresh, t, t_prev)
        names = ("train/loss", "train/clip", "train/l1", "train/keep", "train/delta_h")
        parts = torch.stack([torch.stack([part.mean() for part in parts]) for parts in objectives])
        # Processes have equally many images, so that this is the mean over all of the joint batch.
        parts = self.trainer.strategy.reduce(parts, reduce_op="mean")
        assert isinstance(parts, Tensor)
        self._check_finite(parts[:, 0])
        means = dict(zip(names, parts.mean(dim=0), strict=True))
        self.log_dict(means, prog_bar=True, on_step=True, batch_size=len(batch.x_0))

    def _train_chain(self, fresh: Slots, t: Tensor, t_prev: Tensor) -> Iterator[Objective]:
        """Updates on the edited trajectories on their way down."""
        offsets = self._choose_offsets(len(fresh.x))
        slots = self._slots
        if slots is None or len(slots.x) != len(fresh.x):
            slots = advance_unedited(fresh, offsets, t, t_prev, self.alphas_cumprod, self.model)
        for k in range(len(t)):
            stages = (offsets + k) % len(t)
            slots = slots.refill(fresh, stages == 0)
            slots, objective = self._train_slots(slots, stages, t[stages], t_prev[stages])
            yield objective
        self._slots = slots if self.stagger else None  # in all processes: they are gathered for the checkpoint

    def _choose_offsets(self, batch_size: int) -> Tensor:
        if not self.stagger:
            return torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        trainer = self.trainer
        offsets = choose_offsets(batch_size, len(self.train_steps), trainer.global_rank, trainer.world_size)
        return offsets.to(self.device)

    def _train_slots(self, slots: Slots, stages: Tensor, steps: Tensor, previous: Tensor) -> tuple[Slots, Objective]:
        """One optimiser step with every slot at its own timestep."""
        alphas = gather_alphas(self.alphas_cumprod, steps, previous)
        pred_x0_source, x_source = follow_source(slots, stages, steps, alphas, self.model)
        strength = slots.strength.view(-1, 1, 1, 1)
        x, objective = self._train_at(UpdateBatch(slots.x, steps, *alphas, pred_x0_source, slots.source, strength))
        return slots._replace(x=x, x_source=x_source), objective

    def _train_at(self, batch: UpdateBatch) -> tuple[Images, Objective]:
        """One optimiser step; the next states of the edited trajectories, and the loss."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        moved, objectives, parts = [], [], batch.split(self.chunk_size)
        for number, part in enumerate(parts, 1):
            # Processes average once an update, at its last part: they may have different numbers of parts.
            with optimizer.toggle_model(sync_grad=number == len(parts)):
                x, objective = self._backward(part, len(part.x) / len(batch.x))
            moved.append(x)
            objectives.append(objective)
        objective = Objective(*(torch.cat(values) for values in zip(*objectives, strict=True)))
        self._update(optimizer)
        return torch.cat(moved), objective

    def _backward(self, batch: UpdateBatch, share: float) -> tuple[Images, Objective]:
        """Add a part's share of the gradient; its next states and its loss."""
        objective, eps, eps_edit = self._evaluate(batch)
        self.manual_backward(objective.total.mean() * share)
        moved = step_asyrp(batch.x, eps, eps_edit.detach(), batch.alpha_bar_t, batch.alpha_bar_prev)
        return moved, Objective(*(values.detach() for values in objective))

    def _evaluate(self, batch: UpdateBatch) -> tuple[Objective, Images, Images]:
        """The loss with its graph, eps and eps_edit."""
        with torch.no_grad():
            bottleneck = self.model.encode(batch.x, batch.t)
            eps = self.model.decode(bottleneck).float()
        direction = MeasuredDirection(Scaled(self.direction, batch.strength.to(bottleneck.h)))
        eps_edit = edit_eps(self.model, bottleneck, eps, direction, batch.t)
        pred_x0_edit = compute_pred_x0(batch.x, eps_edit, batch.alpha_bar_t)
        objective = self.loss(pred_x0_edit, batch.pred_x0, batch.source, direction.size, batch.strength.flatten())
        return objective, eps, eps_edit

    def try_update(self, num_images: int) -> None:
        """The passes of an update on so many empty images, to see that they fit into memory; nothing is changed.

        Raises:
            torch.OutOfMemoryError: they do not.
        """
        model = self.model
        channels = model.unet.config.in_channels
        x = torch.zeros(num_images, channels, model.image_size, model.image_size, device=self.device)
        t, t_prev = (torch.full((num_images,), value, device=self.device) for value in self.train_steps[0])
        alphas = gather_alphas(self.alphas_cumprod, t, t_prev)
        source, strength = self.loss.clip.encode_images(x), torch.ones_like(alphas[0])
        objective, *_ = self._evaluate(UpdateBatch(x, t, *alphas, x, source, strength))
        objective.total.mean().backward()  # type: ignore[no-untyped-call]
        self.direction.zero_grad()

    def _update(self, optimizer: LightningOptimizer) -> None:
        if self.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.direction.parameters(), self.grad_clip)
        try:
            optimizer.step()
        except KeyError as error:  # by a resume with amsgrad, say, which the state knows nothing of
            raise ValueError(f"the optimiser's state has no {error}: resume with its settings as they were") from error

    def _check_finite(self, losses: Tensor) -> None:
        """See that a batch's updates went well, at its end: each look makes a GPU wait, and no save comes before."""
        wrong = losses.isfinite().logical_not().nonzero().flatten().tolist()
        if wrong:
            done = self.global_step - len(losses) + wrong[0]
            raise FloatingPointError(f"the loss became {losses[wrong[0]].item()} after {done} updates; {ADVICE}")
        if not torch.stack([parameter.isfinite().all() for parameter in self.direction.parameters()]).all():
            raise FloatingPointError(f"an update made the direction NaN or infinite; {ADVICE}")

    def validation_step(self, batch: LatentBatch, batch_idx: int) -> dict[str, Images] | None:
        """Reconstruct, edit at the judged strength and judge."""
        if self.panel is None:
            return None
        seeds = derive_seeds(batch.x_0, self.seed)
        common = (self.model, batch.x_T, self.grid, self.alphas_cumprod, self.direction, self.interval)
        columns = sample_strengths(*common, (None, self.judged), seeds)
        real = batch.is_real
        self.panel.update(batch.x_0[real], columns[RECONSTRUCTION][real], columns[name_strength(self.judged)][real])
        return {"source": batch.x_0} | columns

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
        wanted = tuple(t for t, _ in self.lead_steps + self.train_steps)
        if kept and kept[: len(wanted)] != wanted:
            raise ValueError(
                f"the train store keeps P_t at t = {', '.join(map(str, kept))}, but training down to t_edit = "
                f"{self.interval.t_edit} needs {', '.join(map(str, wanted))}: fill a store for this interval"
            )

    def on_train_start(self) -> None:
        """Put the optimiser's settings in the place of those that a checkpoint brought along."""
        super().on_train_start()
        for optimizer in self.trainer.optimizers:
            state = optimizer.state_dict()
            for group, first in zip(state["param_groups"], self._first_groups, strict=True):
                group.update(first)
            optimizer.load_state_dict(state)  # which also moves what fused kernels want elsewhere

    def on_train_batch_start(self, batch: LatentBatch, batch_idx: int) -> None:
        """Set the learning rate from what is done of the run: a resume loses no decay and may change the rate."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        passes = self.current_epoch + batch_idx / max(1, int(self.trainer.num_training_batches))
        done = passes / max(1, self.trainer.max_epochs or 1)
        factor = self.lr_decay**self.current_epoch * (1 + (self.lr_final - 1) * done)
        for group, first in zip(optimizer.param_groups, self._first_groups, strict=True):
            group["lr"] = first["lr"] * factor

    def configure_optimizers(self) -> Optimizer:
        """The optimiser over the direction alone."""
        optimizer = self.make_optimizer(self.direction.parameters())
        settings = {"lr", *signature(type(optimizer)).parameters} - {"params"}  # groups may hold state as well
        self._first_groups = [
            {name: value for name, value in group.items() if name in settings} for group in optimizer.param_groups
        ]
        return optimizer
