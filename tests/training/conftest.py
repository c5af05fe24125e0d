"""A whole training set-up that takes milliseconds a step; ``fit_direction.py`` imports it too."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from lightning.pytorch import Trainer
from torch import nn

from asyrp_lit.data.datamodule import LatentsDataModule
from asyrp_lit.data.latents import LatentStore, from_uint8
from asyrp_lit.data.source import ImageItem
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.hspace.f_t import DDPMDelta
from asyrp_lit.inversion.fill import fill_store, make_store_key
from asyrp_lit.losses.clip import FrozenCLIP, ImageNormalisation, build_avatars_clip
from asyrp_lit.losses.kept import KeptReadings
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss, LossRecipe

GRID = make_time_grid(5)
#: Three of the five timesteps are edited, the last of them at t_edit itself.
INTERVAL = Interval(GRID[2], 0)


class Squares:
    """Images of random squares, each drawn from its index."""

    size = 16

    def __init__(self, count):
        self.name = f"{count} squares"
        self.keys = [f"square-{i}" for i in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        pixels = torch.randint(0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(index), dtype=torch.uint8)
        return ImageItem(from_uint8(pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)), torch.tensor([0]))

    def fingerprint(self):
        return "0123"


class TinyTowers(nn.Module):
    """Stands for CLIP in training, where the text direction is computed already: one linear map of small images."""

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 8), nn.Tanh())

    def encode_image(self, x):
        return self.visual(x)


class Ends(KeptReadings):
    """Two opposite prompts: an embedding reads as the second where its fourth number is above 0."""

    def __init__(self):
        nn.Module.__init__(self)
        self.num_groups, self.scale = 1, 5.0
        self.register_buffer("prompts_0", torch.eye(8)[3:4] * torch.tensor([[-1.0], [1.0]]))


def make_model():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    return HSpaceUNet(unet, "tiny")


def make_clip():
    torch.manual_seed(0)
    expected = ImageNormalisation(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return FrozenCLIP(TinyTowers(), build_avatars_clip()[1], expected, "tiny")


def make_module(
    cls=AsyrpModule, recipe=None, optimizer=torch.optim.SGD, lr=0.1, kept=None, loss=EditLoss, contrast=None, **options
):
    torch.manual_seed(1)
    direction = DDPMDelta(16, 32, num_groups=4)
    text_direction = F.normalize(torch.randn(1, 8), dim=-1)
    loss = loss(make_clip(), text_direction, 0.9, recipe or LossRecipe(), kept, contrast)
    return cls(
        make_model(), direction, loss, GRID, INTERVAL, lambda parameters: optimizer(parameters, lr=lr), **options
    )


def make_data(root, batch_size=2, num_train=6, cached=True, num_val=2):
    """The train store keeps P_t when ``cached``; the val store never does."""
    model, folders = make_model(), []
    for count, steps in ((num_train, [t for t in GRID if cached and t >= INTERVAL.t_edit]), (num_val, [])):
        source = Squares(count)
        key = make_store_key(model, source, len(GRID), GRID[-1], pred_x0_steps=steps)
        store = LatentStore.create(root, key, source.keys, shard_size=8, num_labels=1)
        fill_store(model, source, store, batch_size=8, progress=False)
        folders.append(store.folder)
    return LatentsDataModule(*folders, batch_size)


def make_trainer(max_epochs=1, callbacks=(), **options):
    return Trainer(
        accelerator="cpu", max_epochs=max_epochs, check_val_every_n_epoch=max_epochs, callbacks=list(callbacks),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, use_distributed_sampler=False, **options,
    )  # fmt: skip


def copy_weights(module):
    return {key: value.clone() for key, value in module.direction.state_dict().items()}


def fit(root, max_epochs=1, callbacks=(), resume=None, batch_size=2, cached=True, t_start=1000, **options):
    """A trained module; one that was killed comes back as it was."""
    module = make_module(**options)
    module.interval = module.interval._replace(t_start=t_start)
    trainer = make_trainer(max_epochs, callbacks)
    with suppress(RuntimeError):
        trainer.fit(module, make_data(root, batch_size, cached=cached), ckpt_path=resume, weights_only=True)
    return module


def read_batch(root, batch_size=3, cached=True):
    data = make_data(root, batch_size, cached=cached)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


@pytest.fixture
def tiny():
    """The builders above."""
    builders = (make_module, make_data, make_trainer, make_model, fit, read_batch, copy_weights, Ends)
    return SimpleNamespace(**{builder.__name__: builder for builder in builders})
