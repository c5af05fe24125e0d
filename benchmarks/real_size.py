"""One forward and one training step of the published networks at their real size, random weights: memory and seconds.

    python benchmarks/real_size.py [MODEL ...]

Each model runs in a process of its own, so that the peak of its memory is its own. Weights do not change either figure.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from asyrp_lit.diffusion.asyrp import Interval
from asyrp_lit.diffusion.ddim import compute_pred_x0
from asyrp_lit.diffusion.schedule import gather_alpha_bar, make_alphas_cumprod, make_time_grid
from asyrp_lit.hspace.direction import direction_arguments, make_direction
from asyrp_lit.losses.clip import FrozenCLIP, ImageNormalisation
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.training.asyrp import AsyrpModule
from asyrp_lit.training.objective import EditLoss, LossRecipe

CONF = Path(__file__).parents[1] / "conf"
MODELS = ("ddpmpp_celeba", "adm_imagenet")
CLIP = "ViT-B-16-quickgelu"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds that it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def peak_gib() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build_module(model: HSpaceUNet, kind: str) -> AsyrpModule:
    """The LightningModule around a network, with a CLIP of the paper's architecture."""
    network = open_clip.create_model(CLIP)
    expected = ImageNormalisation(224, (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))
    clip = FrozenCLIP(network, open_clip.get_tokenizer(CLIP), expected, CLIP)
    grid = make_time_grid(40)
    arguments = direction_arguments(kind, model.h_channels, model.h_size, model.temb_channels, grid)
    direction = torch.nn.functional.normalize(torch.randn(1, 512), dim=-1)
    make_optimizer = instantiate({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5})
    loss = EditLoss(clip, direction, 0.9, LossRecipe())
    return AsyrpModule(model, make_direction(kind, **arguments), loss, grid, Interval(500, 0), make_optimizer)


def train_once(module: AsyrpModule, x: torch.Tensor, t: torch.Tensor) -> None:
    """One optimiser step as in training: encode, both decodes, CLIP, a backward through one decoder."""
    model, optimizer = module.model, module.make_optimizer(module.direction.parameters())
    alpha_bar_t = gather_alpha_bar(make_alphas_cumprod(), t)
    with torch.no_grad():
        bottleneck = model.encode(x, t)
        source = compute_pred_x0(x, model.decode(bottleneck), alpha_bar_t)
        embeddings = module.loss.clip.encode_images(x)
    edit = compute_pred_x0(x, model.decode(bottleneck, module.direction(bottleneck.h, bottleneck.temb, t)), alpha_bar_t)
    module.loss(edit, source, embeddings).total.mean().backward()
    optimizer.step()


def measure(name: str) -> None:
    """Print a line for one model."""
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        cfg = compose("train", [f"model={name}"])
    torch.manual_seed(0)
    model = HSpaceUNet(UNet2DModel(**instantiate(cfg.model.build.config)), name)
    x, t = torch.randn(1, 3, model.image_size, model.image_size), torch.tensor([700])
    with torch.no_grad():
        eps, forward = timed(lambda: model(x, t))
    after_forward = peak_gib()
    module = build_module(model, cfg.method.kind)
    _, step = timed(lambda: train_once(module, x, t))
    parameters = sum(value.numel() for value in model.parameters())
    sys.stdout.write(
        f"{name}: {parameters:,} parameters, eps {tuple(eps.shape)} in {forward:.1f} s ({after_forward:.1f} GiB), "
        f"training step in {step:.1f} s ({peak_gib():.1f} GiB with CLIP), {torch.get_num_threads()} threads\n"
    )


def main() -> None:
    """Measure each model that is named in a process of its own."""
    names = sys.argv[1:] or list(MODELS)
    if len(names) == 1:
        measure(names[0])
        return
    for name in names:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
