"""Where the time of inversion, training and editing goes: its share by kind of work and by phase, from torch.profiler.

    python benchmarks/profile_steps.py [--bf16] [--channels-last] [--model ddpmpp_celeba --steps 2 --images 1]

With two steps on the grid one of them is trained, which is as much as a CPU does of a real-size network. Shares are of
each operator's own time on the CPU, so where a GPU computes they say what keeps the CPU busy, not the GPU.
"""

import argparse
import logging
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from loops import Job, Setting, build_job, edit_ours, invert_ours, train_ours
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

#: What is in the name of an operator -> its kind; the first that fits.
KINDS = {
    "attention": ("attention", "softmax"),
    "conv": ("conv", "slow_conv"),
    "norm": ("norm",),
    "linear": ("linear", "addmm", "aten::mm", "bmm", "matmul"),
    "optimiser": ("Optimizer.", "_fused_", "_foreach_"),
    "copy, cat, repeat": ("copy", "cat", "repeat", "clone", "contiguous", "index", "fill", "zero", "empty", "stack"),
    "pointwise": ("silu", "sigmoid", "add", "mul", "sub", "div", "pow", "sqrt", "exp", "log", "gelu", "sum", "mean"),
    "resize": ("upsample", "interpol", "pool"),
}
CAST, OTHER = "cast", "Python, other"
PHASES = ("encode", "decode", "decode with a graph", "CLIP", "backward", "optimiser", "rest")
Shares = dict[str, float]


@contextmanager
def name_phases(job: Job) -> Iterator[None]:
    """Let the profiler see the calls of the frozen networks by name."""

    def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            graph = name == "decode" and any(isinstance(a, Tensor) and a.requires_grad for a in args)
            with record_function(f"{name} with a graph" if graph else name):
                return function(*args)

        return call

    with ExitStack() as stack:
        parts = ((job.model, "encode", "encode"), (job.model, "decode", "decode"), (job.clip, "encode_images", "CLIP"))
        for part, method, name in parts:
            stack.enter_context(patch.object(part, method, named(getattr(part, method), name)))
        yield


def find_kind(event: Any) -> str:
    """What kind of work an operator is; a copy that changes the type is a cast."""
    name = event.name
    if name == "aten::copy_" and event.cpu_parent is not None and event.cpu_parent.name == "aten::_to_copy":
        return CAST
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), OTHER)


def find_phase(event: Any) -> str:
    """Within what an operator was called."""
    phase = "rest"
    while event is not None:
        name = event.name
        if name.startswith(("autograd::engine", "Optimizer.")):
            return "backward" if name.startswith("autograd") else "optimiser"
        if name in PHASES and (phase == "rest" or name == "CLIP"):
            phase = name
        event = event.cpu_parent
    return phase


def measure(job: Job, work: Callable[[], Any]) -> tuple[float, Shares, Shares]:
    """Milliseconds of a piece of work, and its share by kind and by phase."""
    work()  # warms up
    with name_phases(job), profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("rest"):
        work()
    kinds: Shares = defaultdict(float)
    phases: Shares = defaultdict(float)
    for event in profiler.events() or ():
        spent = event.self_cpu_time_total / 1000
        kinds[find_kind(event)] += spent
        phases[find_phase(event)] += spent
    return sum(kinds.values()), kinds, phases


def print_table(title: str, names: Sequence[str], columns: dict[str, Shares]) -> None:
    print(f"\n| {title} | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name in names:
        cells = [f"{column.get(name, 0) / sum(column.values()):.1%}" for column in columns.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ddpmpp_avatars")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--work", nargs="+", default=["inversion", "training", "editing"])
    chosen = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    job = build_job(chosen.model, torch.device("cpu"), chosen.images, chosen.steps)
    if chosen.channels_last:
        job.model.to(memory_format=torch.channels_last)
    setting = Setting(min(chosen.batch, chosen.images), chosen.bf16)
    works = {"inversion": invert_ours, "training": train_ours, "editing": edit_ours}
    found = {name: measure(job, partial(works[name], job, setting)) for name in chosen.work}
    times = ", ".join(f"{name} {milliseconds:.0f} ms" for name, (milliseconds, _, _) in found.items())
    print(f"{chosen.model}, {setting}{', channels-last' * chosen.channels_last}, torch {torch.__version__}: {times}")
    print_table("kind", (*KINDS, CAST, OTHER), {name: kinds for name, (_, kinds, _) in found.items()})
    print_table("phase", PHASES, {name: phases for name, (_, _, phases) in found.items()})


if __name__ == "__main__":
    sys.exit(main())
