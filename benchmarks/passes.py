"""Count encodes and decodes of every stage against what the method needs; exits with 1 when a stage does more.

    python benchmarks/passes.py

Runs on a tiny random network: passes are a property of the code, not of the weights.
"""

import sys
from functools import partial

import torch
from diffusers import UNet2DModel
from lightning.pytorch import Trainer

from asyrp_lit.data.latent_loader import LatentBatch
from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.schedule import make_alphas_cumprod, make_time_grid
from asyrp_lit.editing.sample import sample_images
from asyrp_lit.editing.strips import sample_strengths
from asyrp_lit.hspace.direction import direction_arguments, make_direction
from asyrp_lit.inversion.invert import invert_images, sample_pred_x0
from asyrp_lit.inversion.profile import measure_lpips
from asyrp_lit.losses.clip import FrozenCLIP, build_avatars_clip
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.panel import Judges, MetricPanel
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss, LossRecipe

GRID = make_time_grid(10)
INTERVAL = Interval(t_edit=500, t_boost=200)
NUM_EDITED = sum(t >= INTERVAL.t_edit for t in GRID)
BATCH = 2
SEEDS = [0, 1]
SIZE = 16


def build_model() -> HSpaceUNet:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    return HSpaceUNet(unet, "tiny")


def build_direction(model: HSpaceUNet) -> torch.nn.Module:
    arguments = direction_arguments("f_t_ddpm", model.h_channels, model.h_size, model.temb_channels, GRID)
    return make_direction("f_t_ddpm", **arguments)


def run_module(model: HSpaceUNet, cached: bool = False, validate: bool = False) -> None:
    """One batch through the LightningModule under a real trainer, as training or as validation."""
    network, tokenizer, expected = build_avatars_clip()
    clip = FrozenCLIP(network, tokenizer, expected, "random")
    text_direction = torch.nn.functional.normalize(torch.randn(1, 128), dim=-1)
    module = AsyrpModule(
        model,
        build_direction(model),
        EditLoss(clip, text_direction, 0.9, LossRecipe()),
        GRID,
        INTERVAL,
        partial(torch.optim.Adam, lr=1e-4),
        panel=MetricPanel(Judges(clip, load_lpips()), text_direction) if validate else None,
    )
    x = torch.randn(BATCH, 3, SIZE, SIZE).clamp(-1, 1)
    pred_x0 = x[:, None].repeat(1, NUM_EDITED, 1, 1, 1) if cached else None
    batch = LatentBatch(x, torch.randn_like(x), torch.zeros(BATCH, 0, dtype=torch.int64), torch.arange(BATCH), pred_x0)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    if validate:
        trainer.validate(module, loader, verbose=False)
    else:
        trainer.fit(module, loader)


def main() -> int:
    alphas_cumprod = make_alphas_cumprod()
    x = torch.randn(BATCH, 3, SIZE, SIZE)
    n, kept = len(GRID), [t for t in reversed(GRID) if t >= INTERVAL.t_edit]
    stages = {
        "inversion (n - 1 passes)": (
            lambda model: invert_images(model, x, GRID, alphas_cumprod),
            (n - 1, n - 1),
        ),
        "inversion, P_t kept for training": (
            lambda model: invert_images(model, x, GRID, alphas_cumprod, kept),
            (n - 1 + NUM_EDITED, n - 1 + NUM_EDITED),
        ),
        "random latents to images, any P_t kept (n)": (
            lambda model: sample_pred_x0(model, x, (*kept, 0), GRID, alphas_cumprod),
            (n, n),
        ),
        "LPIPS curves (n - 1 passes, some images)": (
            lambda model: measure_lpips(model, x, GRID, alphas_cumprod, load_lpips()),
            (n - 1, n - 1),
        ),
        "reconstruction (n passes)": (
            lambda model: sample_images(model, x, GRID, alphas_cumprod),
            (n, n),
        ),
        "editing (a second decode for t >= t_edit)": (
            lambda model: sample_images(model, x, GRID, alphas_cumprod, build_direction(model), INTERVAL),
            (n, n + NUM_EDITED),
        ),
        "editing at 4 strengths and the reconstruction": (
            lambda model: sample_strengths(
                *(model, x, GRID, alphas_cumprod, build_direction(model), INTERVAL), (None, -1.0, 0.5, 1.0, 1.5), SEEDS
            ),
            # The first step is one for all: one encode, one eps and four edits.
            (1 + 5 * (n - 1), 5 + (n - 1) * 5 + (NUM_EDITED - 1) * 4),
        ),
        "training, P_t kept": (lambda model: run_module(model, cached=True), (NUM_EDITED, 2 * NUM_EDITED)),
        "training, trajectory followed": (run_module, (2 * NUM_EDITED, 3 * NUM_EDITED)),
        "validation (reconstruction and edit)": (
            lambda model: run_module(model, validate=True),
            (2 * n - 1, 2 * n - 1 + NUM_EDITED),
        ),
    }
    print(f"{n} steps, {NUM_EDITED} of them with t >= t_edit; passes per image\n")
    print(f"{'stage':44}{'encodes':>9}{'allowed':>9}{'decodes':>9}{'allowed':>9}")
    exceeded = False
    for name, (run, (encodes, decodes)) in stages.items():
        model = build_model()
        run(model)
        found = {kind: images / BATCH for kind, images in model.passes.items()}
        exceeded |= found["encode"] > encodes or found["decode"] > decodes
        print(f"{name:44}{found['encode']:9g}{encodes:9d}{found['decode']:9g}{decodes:9d}")
    print("\nEXCEEDED" if exceeded else "\nall within what is allowed")
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
