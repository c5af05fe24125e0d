"""kill -9 at random moments of an inversion, a training and a sweep, then the same command again: equal results?

    python benchmarks/kills.py [kills of each] [seed] [folder]

A tiny random network and four portraits. Each stage runs once to the end; then it is killed at a random moment of that
time and started again, until it ends, in new folders until it was killed as often as asked. All shards, manifests,
direction files and metrics are compared byte for byte. Prints what was there at each kill ("4 files+12": and a
training after 12 updates); exits with 1 where one differs or is missing, or a start fails.
Every start is a fork of this process, which has imported what scripts import: only their own seconds count.
"""

import os
import random
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from diffusers import UNet2DModel

import asyrp_lit.stages  # noqa: F401  before the forks

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("latents/*/manifest.json", "latents/*/shard-*", "run/**/*.safetensors", "run/**/metrics.json")
STAGES = {
    "inversion": ("invert.py", "hydra.run.dir={}", "data.train.num_images=40", "inversion_batch_size=8"),
    "training": ("train.py", "hydra.run.dir={}", "method.passes=6", "method.batch_size=1"),
    "sweep": ("train.py", "hydra.sweep.dir={}", "seed=0,1", "method.passes=3", "method.batch_size=1"),
}


class Outcome(NamedTuple):
    """Of one stage: how often it was killed, ended and started, files that were compared, and those that differ."""

    seconds: float
    kills: int
    ended: int
    compared: int
    different: list[str]


def make_overrides(folder: Path) -> list[str]:
    """A tiny network, which is made here, and four portraits."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(32, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **blocks)
    unet.save_pretrained(folder / "unet")
    model = ["model=custom", f"model.weights={folder / 'unet'}", "model.domain=avatars", "model.image_size=32"]
    images = ["data.train.num_images=4", "data.val.num_images=4"]
    return [*model, *images, "model.max_eps_error=null", "method.num_steps=4"]


def start(stage: str, overrides: list[str], outputs: Path) -> int:
    """Start a stage in a process of its own, its output in ``log``; returns the process."""
    script, place, *own = STAGES[stage]
    many = ["-m"] if "sweep" in place else []
    outputs.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if not pid:
        log = os.open(outputs / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_script(ROOT / script, [*many, *overrides, *own, f"paths.outputs={outputs}", place.format(outputs / "run")])
    return pid


def run_script(path: Path, overrides: list[str]) -> NoReturn:
    """Run a script as Python does, and end this process with its exit code."""
    sys.argv = [str(path), *overrides]
    code = 0
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def wait(pid: int, seconds: float | None = None) -> int | None:
    """The exit code of a process, ``None`` if it had not ended after some seconds."""
    end = None if seconds is None else time.perf_counter() + seconds
    while end is None or time.perf_counter() < end:
        done, status = os.waitpid(pid, 0 if end is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def read_results(outputs: Path) -> dict[str, bytes]:
    files = [path for pattern in RESULTS for path in outputs.glob(pattern)]
    return {str(path.relative_to(outputs)): path.read_bytes() for path in files}


def describe_progress(outputs: Path) -> str:
    """Files of results, and updates of the trainings, that are there."""
    states = [torch.load(path, weights_only=True) for path in sorted(outputs.glob("run/**/last.ckpt"))]
    updates = "".join(f"+{state['global_step']}" for state in states)
    return f"{len(read_results(outputs))} files{updates}"


def run_to_the_end(stage: str, overrides: list[str], outputs: Path) -> float:
    """The seconds that a stage takes when nothing stops it."""
    begin = time.perf_counter()
    if code := wait(start(stage, overrides, outputs)):
        sys.exit(f"{stage} ended with exit code {code}: see {outputs / 'log'}")
    return time.perf_counter() - begin


def kill_often(stage: str, overrides: list[str], folder: Path, wanted: int, moments: random.Random) -> Outcome:
    """Kill a stage as often as wanted, start it again each time, and compare."""
    run_to_the_end(stage, overrides, folder / "warm-up")  # portraits are drawn and kept
    seconds = run_to_the_end(stage, overrides, folder / "whole")
    whole = read_results(folder / "whole")
    kills, ended, different = 0, 0, []
    while kills < wanted:
        outputs, after, begin = folder / f"killed-{ended}", [], time.perf_counter()
        while (code := wait(pid := start(stage, overrides, outputs), moments.uniform(0, seconds))) is None:
            os.kill(pid, signal.SIGKILL)
            wait(pid)
            kills += 1
            after.append(describe_progress(outputs))
            if kills == wanted:
                code = wait(start(stage, overrides, outputs))
                break
        if code:
            sys.exit(f"{stage} ended with exit code {code}: see {outputs / 'log'}")
        if not after:
            seconds = min(seconds, time.perf_counter() - begin)  # the machine was busy with other things before
        found = read_results(outputs)
        different += [f"{outputs / name}" for name in whole.keys() | found.keys() if whole.get(name) != found.get(name)]
        ended += 1
        print(f"{stage} {ended}: killed {len(after)} times, at {', '.join(after) or '-'}", flush=True)
    return Outcome(seconds, kills, ended, ended * len(whole), different)


def main() -> int:
    """Kill, print, say whether all is equal."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    folder = Path(sys.argv[3] if len(sys.argv) > 3 else tempfile.mkdtemp()).resolve()
    overrides, moments = make_overrides(folder), random.Random(seed)
    outcomes = {stage: kill_often(stage, overrides, folder / stage, kills, moments) for stage in STAGES}
    print(f"\nseed {seed}\n{'stage':12}{'seconds':>9}{'kills':>7}{'ended':>7}{'files compared':>16}{'different':>11}")
    for stage, found in outcomes.items():
        numbers = f"{found.seconds:9.1f}{found.kills:7d}{found.ended:7d}{found.compared:16d}{len(found.different):11d}"
        print(f"{stage:12}{numbers}")
    different = [name for found in outcomes.values() for name in found.different]
    print("\n".join(["", *different, "DIFFERENT" if different else "all equal"]))
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
