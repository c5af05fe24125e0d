"""What each switch of speed brings, and what it does to edited pictures, against float32 in the usual memory format.

    python benchmarks/switches.py [--work speed pictures] [--rows 0 1 4] [--rounds 3]
    python benchmarks/switches.py --model ddpmpp_celeba --work speed --parts inversion training --rows 0 2 4 5 6

Speed: ratios of time for inversion, training and editing, the fastest of some rounds in which all rows take turns. On a
CPU it is the CPU time of one thread, which other processes on the machine hardly change. Pictures: the embedded
``glasses`` on test portraits, 40 steps, edited from the latents of float32 and from those of the row itself.
"""

import argparse
import copy
import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import loops
import torch
from loops import Job, Setting, build_job, edit_ours, invert_ours, train_ours
from torch import Tensor

from asyrp_lit.data.portraits import PortraitSource
from asyrp_lit.diffusion.schedule import make_alphas_cumprod
from asyrp_lit.editing.plan import EditPlan, edit_latents, make_plan
from asyrp_lit.hspace.direction import load_direction
from asyrp_lit.hspace.embedded import find_direction
from asyrp_lit.inversion.invert import invert_images
from asyrp_lit.losses.clip import load_clip
from asyrp_lit.losses.perceptual import load_lpips
from asyrp_lit.metrics.oracle import load_oracle
from asyrp_lit.metrics.panel import Judges
from asyrp_lit.metrics.per_image import judge_edit
from asyrp_lit.models.hspace_unet import HSpaceUNet
from asyrp_lit.models.registry import load_embedded

MODEL, ATTRIBUTE, LR = "ddpmpp_avatars", "glasses", 5e-4
#: Grid and images of the small model; of others as much as a CPU can do.
STEPS, IMAGES, PORTRAITS = (10, 2), (4, 1), 16
BATCH = 4
PARTS = ("inversion", "training", "editing")


class Switches(NamedTuple):
    """A row."""

    bf16: bool = False
    cast_once: bool = True
    channels_last: bool = False
    compiled: bool = False
    fused: bool = False

    def __str__(self) -> str:
        precision = "bf16" if self.bf16 else "float32"
        cast = ["weights cast in every pass"] if self.bf16 and not self.cast_once else []
        named = {"channels-last": self.channels_last, "compiled": self.compiled, "fused Adam": self.fused}
        return ", ".join([precision, *cast, *(name for name, on in named.items() if on)])

    def apply(self, model: HSpaceUNet) -> HSpaceUNet:
        """A copy of the network that runs so."""
        model = copy.deepcopy(model)
        if self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if not self.cast_once:
            model._lowered.choose = lambda unet, device_type: unet  # type: ignore[method-assign]
        if self.compiled:
            model.compile_halves()
        return model


ROWS = (
    Switches(),
    Switches(fused=True),
    Switches(channels_last=True),
    Switches(channels_last=True, compiled=True),
    Switches(bf16=True, cast_once=False),
    Switches(bf16=True),
    Switches(bf16=True, channels_last=True),
    Switches(bf16=True, channels_last=True, compiled=True),
)


def train(job: Job, setting: Setting, row: Switches) -> tuple[Tensor, float]:
    return train_ours(job, setting, partial(torch.optim.Adam, lr=LR, fused=row.fused or None))


def measure_speed(rows: Sequence[Switches], rounds: int, model: str, parts: Sequence[str]) -> None:
    """Print the ratios of time against the first row."""
    base = build_job(model, torch.device("cpu"), IMAGES[model != MODEL], STEPS[model != MODEL])
    works: dict[tuple[Switches, str], Callable[[], tuple[Any, float]]] = {}
    for row in rows:
        job, setting = base._replace(model=row.apply(base.model)), Setting(BATCH, row.bf16)
        functions = (
            partial(invert_ours, job, setting),
            partial(train, job, setting, row),
            partial(edit_ours, job, setting),
        )
        works |= {(row, part): work for part, work in zip(PARTS, functions, strict=True) if part in parts}
    seconds: dict[tuple[Switches, str], list[float]] = {}
    first = {key: spend(work)[1] for key, work in works.items()}
    with patch.object(loops, "now", time.process_time):
        for _ in range(rounds):
            for key, work in works.items():
                seconds.setdefault(key, []).append(work()[1])
    best = {key: min(values) for key, values in seconds.items()}
    print(f"\n| {model} | {' | '.join(parts)} | first use, s |\n|{'---|' * (len(parts) + 2)}")
    for row in rows:
        ratios = [f"{best[rows[0], part] / best[row, part]:.2f}" for part in parts]
        print(f"| {row} | {' | '.join(ratios)} | {sum(first[row, part] for part in parts):.0f} |", flush=True)
    print(", ".join(f"{part} {best[rows[0], part]:.2f} s" for part in parts), "in the first row")


def spend(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


class Pictures(NamedTuple):
    """What a row makes of the portraits: x_T, edits from the x_T of float32, and from its own."""

    x_T: Tensor
    same: Tensor
    own: Tensor


def make_pictures(model: HSpaceUNet, row: Switches, x_0: Tensor, plan: EditPlan, x_T: Tensor | None) -> Pictures:
    table = make_alphas_cumprod()
    with torch.autocast("cpu", torch.bfloat16, enabled=row.bf16):
        own = torch.cat([invert_images(model, x, plan.grid, table).x_T for x in x_0.split(BATCH)])
        edits = []
        for latents in (own,) if x_T is None else (x_T, own):
            parts = [edit_latents(model, x, plan, [(1.0,)], [0] * len(x), BATCH) for x in latents.split(BATCH)]
            edits.append(torch.cat(parts))
    return Pictures(own, edits[0], edits[-1])


def psnr(a: Tensor, b: Tensor) -> float:
    """Of images in [-1, 1], the mean over images in dB."""
    errors = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().flatten(1).mean(dim=1)
    return float((10 * torch.log10(4 / errors.clamp_min(1e-12))).mean())


def compare_pictures(rows: Sequence[Switches]) -> None:
    """Print PSNR against the first row, and what the oracle says."""
    base = load_embedded(MODEL)
    loaded = load_direction(find_direction(ATTRIBUTE), base.fingerprint(), base.name)
    plan, info = make_plan([loaded]), loaded[1]
    source = PortraitSource("test", PORTRAITS, base.image_size, info.where)
    x_0 = torch.stack([source[i].x_0 for i in range(PORTRAITS)])
    judges = Judges(load_clip(), load_lpips(), load_oracle())
    wanted: Pictures | None = None
    print("\n| switches | dB, same latents | dB, own latents | success | preservation |\n|---|---|---|---|---|")
    for row in rows:
        found = make_pictures(row.apply(base), row, x_0, plan, None if wanted is None else wanted.x_T)
        wanted = found if wanted is None else wanted
        verdicts = judge_edit(judges, x_0, found.own, {}, {ATTRIBUTE: info.labels or {}})
        oracle = [f"{float(verdicts[name].float().nanmean()):.3f}" for name in ("success", "preservation")]
        decibel = [f"{psnr(found.same, wanted.same):.1f}", f"{psnr(found.own, wanted.own):.1f}"]
        print(f"| {row} | {' | '.join((decibel if found is not wanted else ['', '']) + oracle)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", nargs="+", default=["speed", "pictures"])
    parser.add_argument("--rows", nargs="+", type=int, default=list(range(len(ROWS))))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    chosen = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = [ROWS[number] for number in chosen.rows]
    if "speed" in chosen.work:
        measure_speed(rows, chosen.rounds, chosen.model, chosen.parts)
    if "pictures" in chosen.work:
        compare_pictures([row for row in rows if not row.fused])


if __name__ == "__main__":
    sys.exit(main())
