"""Inversion, training and editing against the loops of ``reference.py``: images/s, passes/s, FLOP/s, ratios, equality.

    python benchmarks/throughput.py [--model ddpmpp_celeba] [--device cuda] [--batch 16] [--images 4] [--steps 40]

Everything is measured in one run; on a shared machine only the ratios mean something. The embedded model has its
trained weights and CLIP, others random ones (they change no figure) and a CLIP of the paper's architecture. FLOPs are
those of matrix products and convolutions, counted while the work runs once; the peak is what a large matrix product
reaches in the same run and precision. Inversion and training are measured with P_t kept in the store and without; as
what one saves the other pays, the last rows are both together, for one attribute trained in one pass.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from loops import (
    STRENGTHS,
    Job,
    Setting,
    build_job,
    clock,
    edit_ours,
    edit_reference,
    invert_ours,
    invert_reference,
    train_ours,
    train_reference,
)
from torch.utils.flop_counter import FlopCounterMode

PEAK_EDGE = 4096
#: Everything is timed so often, in turns; the fastest counts.
ROUNDS = 2
#: What is done with P_t.
WAYS = {True: "P_t kept", False: "no P_t"}
#: Kind of work -> whether P_t is kept (``None``: it plays no part), the reference's loop and ours.
LOOPS = {
    "inversion": [(keep, invert_reference, partial(invert_ours, keep=keep)) for keep in WAYS],
    "training": [(keep, train_reference, partial(train_ours, keep=keep)) for keep in WAYS],
    "editing": [(None, edit_reference, edit_ours)],
}


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of five."""
    a = torch.randn(PEAK_EDGE, PEAK_EDGE, device=device, dtype=dtype)
    return 2 * PEAK_EDGE**3 / min(clock(lambda: a @ a)[1] for _ in range(6))


def count(job: Job, work: Callable[[], Any]) -> tuple[int, int]:
    """FLOPs, and U-Net passes (half of the encodes and decodes), of a piece of work."""
    networks = (job.model, job.contiguous)
    for network in networks:
        network.passes.update(encode=0, decode=0)
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()), sum(sum(network.passes.values()) for network in networks) // 2


def compare(
    job: Job, name: str, theirs: Callable[..., Any], ours: Callable[..., Any], settings: Sequence[Setting]
) -> dict[Setting | None, float]:
    """Print the rows of one kind of work; seconds by setting, of the reference by ``None``."""
    pictures = len(job.x_0) * (len(STRENGTHS) if name == "editing" else 1)
    works = {None: partial(theirs, job)} | {setting: partial(ours, job, setting) for setting in settings}
    counts = {setting: count(job, work) for setting, work in works.items()}  # also warms up
    rounds, peaks = [], {False: 0.0, True: 0.0}
    for _ in range(ROUNDS):
        rounds.append({setting: work() for setting, work in works.items()})
        for bf16, dtype in ((False, torch.float32), (True, torch.bfloat16)):
            peaks[bf16] = max(peaks[bf16], measure_peak(job.device, dtype))
    wanted, baseline = rounds[0][None][0], min(outcomes[None][1] for outcomes in rounds)
    best = {setting: min(outcomes[setting][1] for outcomes in rounds) for setting in works}
    for setting, (flops, passes) in counts.items():
        result, seconds = rounds[0][setting][0], best[setting]
        peak = peaks[setting is not None and setting.bf16]
        # a batch is another training
        comparable = not name.startswith("training") or setting is None or setting.batch == 1
        off = f"{(result - wanted).abs().mean() / wanted.abs().mean():.0e}" if comparable else "other"
        row = (name, str(setting or "reference"), f"{pictures / seconds:.3g}", f"{passes / seconds:.3g}")
        row += (f"{flops / seconds / 1e12:.3g}", f"{flops / seconds / peak:.0%}", f"{baseline / seconds:.2f}", off)
        print_row(row)
    return best


def print_row(row: Sequence[str]) -> None:
    widths = (24, 16, 10, 10, 9, 9, 7, 8)
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ddpmpp_avatars")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--work", nargs="+", default=["inversion", "training", "editing"], choices=LOOPS)
    chosen = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    device = torch.device(chosen.device)
    job = build_job(chosen.model, device, chosen.images, chosen.steps)
    batch = min(chosen.batch, chosen.images)
    settings = [Setting(), Setting(batch), Setting(1, bf16=True), Setting(batch, bf16=True)]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{chosen.model}, {chosen.images} images, {chosen.steps} steps, {where}, torch {torch.__version__}")
    print_row(("work", "setting", "images/s", "passes/s", "TFLOP/s", "of peak", "ratio", "differs"))
    found = {}
    for work in chosen.work:
        for keep, theirs, ours in LOOPS[work]:
            name = work if keep is None else f"{work}, {WAYS[keep]}"
            found[name] = compare(job, name, theirs, ours, settings)
    if {"inversion", "training"} <= set(chosen.work):
        for way in WAYS.values():
            inversion, training = found[f"inversion, {way}"], found[f"training, {way}"]
            for setting in training:
                seconds = [inversion[each] + training[each] for each in (None, setting)]
                row = ("both, " + way, str(setting or "reference"), f"{len(job.x_0) / seconds[1]:.3g}")
                print_row((*row, "", "", "", f"{seconds[0] / seconds[1]:.2f}", ""))


if __name__ == "__main__":
    sys.exit(main())
