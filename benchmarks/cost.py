"""What the paper's presets and large data sets cost: FLOPs counted on real-size networks, hours by arithmetic.

    python benchmarks/cost.py

Nothing is computed: the networks run on fake tensors, so that this takes seconds and little memory. The hours are
estimates: FLOPs divided by a rate that a device has to reach.
"""

import sys
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import UNet2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from asyrp_lit.data.latent_manifest import StoreKey, count_item_bytes
from asyrp_lit.diffusion.asyrp import Interval, in_editing_phase
from asyrp_lit.diffusion.schedule import make_time_grid
from asyrp_lit.hspace.interval import choose_interval
from asyrp_lit.hspace.published import load_published_curves
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.stages.latents import SHARD_SIZE

CONF = Path(__file__).parents[1] / "conf"
#: Cosine of the two texts that t_edit is taken for; the paper's are 0.44 to 0.91.
COS_TEXT = 0.8
#: FLOP/s that a device has to reach: float32 on one of a few years ago, and about a third of the bfloat16 peaks
#: that NVIDIA gives for an A100 (312) and an H100 (989).
RATES = {"10 TFLOP/s": 1e13, "100 TFLOP/s": 1e14, "300 TFLOP/s": 3e14}

#: Preset -> images of its data set.
DATA_SETS = {"paper_celeba": 30_000, "paper_bedroom": 3_000_000}


def count(work: Callable[[], Any]) -> int:
    """FLOPs of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def count_network(cfg: DictConfig) -> dict[str, int]:
    """FLOPs of one image through the parts of a network: encode, decode, and the backward of decode from its input."""
    with FakeTensorMode():
        model = HSpaceUNet(UNet2DModel(**instantiate(cfg.model.build.config)))
        x, t = torch.empty(1, 3, cfg.model.image_size, cfg.model.image_size), torch.zeros(1, dtype=torch.int64)
        with torch.no_grad():
            bottleneck = model.encode(x, t)
            encode, decode = count(lambda: model.encode(x, t)), count(lambda: model.decode(bottleneck))
        delta_h = torch.zeros_like(bottleneck.h).requires_grad_()
        both = count(lambda: model.decode(bottleneck, delta_h).sum().backward())
    return {"encode": encode, "decode": decode, "backward": both - decode}


def count_clip(name: str) -> dict[str, int]:
    """FLOPs of one image through CLIP, and of the backward to its pixels."""
    visual = open_clip.create_model(name).visual.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, 3, *visual.image_size).requires_grad_()
        forward = count(lambda: visual(image.detach()))
        both = count(lambda: visual(image).sum().backward())
    return {"clip": forward, "clip_backward": both - forward}


def cost_preset(cfg: DictConfig, flops: dict[str, int]) -> tuple[int, int, int, float]:
    """Edited steps, U-Net passes and FLOPs of one attribute: train and val inverted, training, validation.

    Without published curves t_edit is 0, which is the most that it can cost.
    """
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    curves = cfg.data.get("curves")
    interval = choose_interval(load_published_curves(curves), COS_TEXT) if curves else Interval(0, 0)
    edited = sum(in_editing_phase(t, interval) for t in grid)
    train, val = cfg.data.train.limit * cfg.method.passes, cfg.data.val.limit
    one_pass = flops["encode"] + flops["decode"]
    inverted = (cfg.data.train.limit + val) * (len(grid) - 1)
    # Each edited step: encode, both decodes, a backward; and a pass on the unedited trajectory where no P_t is kept.
    step = one_pass + flops["decode"] + flops["backward"] + flops["clip"] + flops["clip_backward"]
    followed = 0 if cfg.method.cache_pred_x0_from is not None else train * edited
    judged = val * (2 * len(grid))
    total = (inverted + followed + judged) * one_pass + train * edited * step + val * edited * flops["decode"]
    return interval.t_edit, edited, inverted + followed + judged + train * edited, total


def plan_dataset(cfg: DictConfig, flops: dict[str, int], num_images: int, kept: bool) -> list[str]:
    """A row for the inversion of a data set and one pass of training over it: FLOPs, hours, disk and shards."""
    grid = make_time_grid(cfg.method.num_steps, cfg.method.t_0)
    interval = choose_interval(load_published_curves(cfg.data.curves), COS_TEXT)
    edited = tuple(t for t in reversed(grid) if in_editing_phase(t, interval))
    one_pass = flops["encode"] + flops["decode"]
    inversion = (len(grid) - 1 + len(edited) * kept) * one_pass
    step = one_pass + flops["decode"] + flops["backward"] + flops["clip"] + flops["clip_backward"]
    training = len(edited) * (step + (not kept) * one_pass)
    size = cfg.model.image_size
    key = StoreKey(
        cfg.model.name, "", "", "", size, cfg.method.num_steps, cfg.method.t_0, "bf16", edited if kept else ()
    )
    rows = [cfg.data.curves, f"{num_images:,}", "yes" if kept else "no"]
    for work in (inversion, training):
        rows += [f"{num_images * work / rate / 3600:,.1f} h" for rate in list(RATES.values())[1:]]
    return [
        *rows,
        f"{num_images * count_item_bytes(key.tensor_specs(0)) / 1e9:,.0f} GB",
        f"{ceil(num_images / SHARD_SIZE):,}",
    ]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns under their headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def main() -> None:
    """Print the tables."""
    with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        names = sorted(path.stem for path in (CONF / "experiment").glob("paper_*.yaml"))
        presets = {name: compose("train", [f"experiment={name}"]) for name in names}
    clip = count_clip(next(iter(presets.values())).clip.name)
    networks: dict[str, dict[str, int]] = {}
    rows = [("preset", "model", "t_edit", "edited", "passes", "PFLOP", *RATES)]
    for name, cfg in presets.items():
        flops = networks.setdefault(cfg.model.name, count_network(cfg))
        t_edit, edited, passes, total = cost_preset(cfg, flops | clip)
        hours = [f"{total / rate / 3600:.2f} h" for rate in RATES.values()]
        rows.append((name, cfg.model.name, str(t_edit), str(edited), str(passes), f"{total / 1e15:.0f}", *hours))
    for name, flops in networks.items():
        sys.stdout.write(
            f"{name}: " + ", ".join(f"{part} {value / 1e9:.0f} GFLOP" for part, value in flops.items()) + "\n"
        )
    sys.stdout.write("CLIP: " + ", ".join(f"{part} {value / 1e9:.0f} GFLOP" for part, value in clip.items()) + "\n")
    print_table(rows)
    sys.stdout.write("\nWhole data sets: inversion, and one pass of training of one attribute\n")
    fast = list(RATES)[1:]
    heading = ["data", "images", "P_t kept", *(f"inversion {r}" for r in fast), *(f"training {r}" for r in fast)]
    plans = [[*heading, "disk", "shards"]]
    for name, num_images in DATA_SETS.items():
        cfg = presets[name]
        plans += [plan_dataset(cfg, networks[cfg.model.name] | clip, num_images, kept) for kept in (False, True)]
    print_table(plans)


if __name__ == "__main__":
    main()
