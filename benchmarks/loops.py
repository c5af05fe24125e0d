"""Inversion, training and editing of one job, as ``throughput.py``, ``profile_steps.py`` and ``switches.py`` time them.

By the package (``*_ours``) and by the loops of ``reference.py`` (``*_reference``); each returns its result and seconds.
"""

import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import reference
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch import Callback, Trainer

from asyrp_lit.data.latent_loader import LatentBatch
from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.plan import EditPlan, edit_latents
from asyrp_lit.hspace.combine import Scaled
from asyrp_lit.hspace.direction import direction_arguments, make_direction
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.losses.clip import FrozenCLIP, ImageNormalisation, load_clip
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import load_embedded
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss, LossRecipe

CONF = Path(__file__).parents[1] / "conf"
CLIP = "ViT-B-16-quickgelu"
INTERVAL = Interval(500, 0)
STRENGTHS = (-1.0, 0.5, 1.0, 1.5)
COS_TEXT, LR = 0.9, 0.5
SGD = partial(torch.optim.SGD, lr=LR)


class Setting(NamedTuple):
    """How our side runs: images a batch and precision; switches.py has the rest."""

    batch: int = 1
    bf16: bool = False

    def __str__(self) -> str:
        return f"batch {self.batch}, {'bf16' if self.bf16 else 'float32'}"


class Job(NamedTuple):
    """What both sides work on."""

    model: HSpaceUNet
    contiguous: HSpaceUNet  # the same for the reference, which knows no channels-last
    clip: FrozenCLIP
    x_0: torch.Tensor
    x_T: torch.Tensor
    pred_x0: torch.Tensor
    grid: tuple[int, ...]
    table: torch.Tensor
    text_direction: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.x_0.device

    def make_f_t(self) -> torch.nn.Module:
        """The same f_t every time."""
        torch.manual_seed(0)
        model = self.model
        arguments = direction_arguments("f_t_ddpm", model.h_channels, model.h_size, model.temb_channels, self.grid)
        return make_direction("f_t_ddpm", **arguments).to(self.device)


class Stopwatch(Callback):
    """Seconds from the first batch to the last, without what Lightning sets up."""

    seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin."""
        self.begin = now()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stop."""
        self.seconds = now() - self.begin


def now() -> float:
    """Seconds, with nothing left to do on the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clock(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    start = now()
    result = work()
    return result, now() - start


def list_trained(grid: tuple[int, ...]) -> list[int]:
    """Timesteps of training, at which P_t may be kept."""
    return [t for t in reversed(grid) if in_editing_phase(t, INTERVAL)]


def build_job(name: str, device: torch.device, num_images: int, num_steps: int) -> Job:
    torch.manual_seed(0)
    if name == "ddpmpp_avatars":
        model, clip = load_embedded(name), load_clip()
        source = PortraitSource("val", num_images, model.image_size)
        x_0 = torch.stack([source[i].x_0 for i in range(num_images)])
    else:
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            cfg = compose("train", [f"model={name}"])
        model = HSpaceUNet(UNet2DModel(**instantiate(cfg.model.build.config)), name)
        expected = ImageNormalisation(224, (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))
        clip = FrozenCLIP(open_clip.create_model(CLIP), open_clip.get_tokenizer(CLIP), expected, CLIP)
        x_0 = torch.rand(num_images, 3, model.image_size, model.image_size) * 2 - 1
    x_0, grid, table = x_0.to(device), make_time_grid(num_steps), make_alphas_cumprod().to(device)
    width = clip.to(device).encode_images(x_0[:1]).shape[1]
    direction = torch.nn.functional.normalize(torch.randn(1, width, device=device), dim=-1)
    x_T, pred_x0 = invert_images(model.to(device), x_0, grid, table, list_trained(grid))
    assert pred_x0 is not None
    contiguous = copy.deepcopy(model)
    return Job(model.to(memory_format=torch.channels_last), contiguous, clip, x_0, x_T, pred_x0, grid, table, direction)


def invert_reference(job: Job) -> tuple[torch.Tensor, float]:
    return clock(lambda: reference.invert(job.contiguous, job.x_0, job.grid, job.table))


def train_reference(job: Job) -> tuple[torch.Tensor, float]:
    f_t = job.make_f_t()
    optimizer = torch.optim.SGD(f_t.parameters(), lr=LR)
    pairs = list(zip(job.x_0.split(1), job.x_T.split(1), strict=True))
    common = (job.text_direction, 3 * COS_TEXT, job.grid, INTERVAL, job.table)
    _, seconds = clock(lambda: reference.train(job.contiguous, job.clip, f_t, optimizer, pairs, *common) or job.x_T)
    return flatten(f_t), seconds


def edit_reference(job: Job) -> tuple[torch.Tensor, float]:
    common = (STRENGTHS, job.grid, INTERVAL, job.table)
    return clock(lambda: reference.edit(job.contiguous, job.make_f_t(), job.x_T, *common))


def flatten(f_t: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in f_t.parameters()])


def invert_ours(job: Job, setting: Setting, keep: bool = False) -> tuple[torch.Tensor, float]:
    steps = list_trained(job.grid) if keep else []

    def work() -> torch.Tensor:
        with torch.autocast(job.device.type, torch.bfloat16, enabled=setting.bf16):
            parts = job.x_0.split(setting.batch)
            return torch.cat([invert_images(job.model, x, job.grid, job.table, steps).x_T for x in parts])

    return clock(work)


def train_ours(
    job: Job, setting: Setting, make_optimizer: Callable[..., torch.optim.Optimizer] = SGD, keep: bool = True
) -> tuple[torch.Tensor, float]:
    f_t, watch = job.make_f_t(), Stopwatch()
    loss = EditLoss(job.clip, job.text_direction, COS_TEXT, LossRecipe())
    module = AsyrpModule(job.model, f_t, loss, job.grid, INTERVAL, make_optimizer)
    labels, index = torch.zeros(len(job.x_0), 0, dtype=torch.int64), torch.arange(len(job.x_0))
    parts = (tensor.cpu().split(setting.batch) for tensor in (job.x_0, job.x_T, labels, index, job.pred_x0))
    batches = [LatentBatch(*p[:4], pred_x0=p[4] if keep else None) for p in zip(*parts, strict=True)]
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if setting.bf16 else "32-true",
        max_epochs=1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return flatten(f_t.to(job.device)), watch.seconds


def edit_ours(job: Job, setting: Setting) -> tuple[torch.Tensor, float]:
    plan = EditPlan((Scaled(job.make_f_t(), 1.0),), None, INTERVAL, job.grid)  # type: ignore[arg-type]
    rows = [(strength,) for strength in STRENGTHS]
    per_batch = max(1, setting.batch // len(rows))

    def work() -> torch.Tensor:
        with torch.autocast(job.device.type, torch.bfloat16, enabled=setting.bf16):
            parts = job.x_T.split(per_batch)
            edited = [edit_latents(job.model, x, plan, rows, [0] * len(x), setting.batch) for x in parts]
        return torch.cat([torch.cat(block) for block in zip(*(e.chunk(len(rows)) for e in edited), strict=True)])

    return clock(work)
