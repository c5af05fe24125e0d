"""Processes that are started together: the name that they have in common, and those of a sweep's job."""

import os
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import DictConfig
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from asyrp_lit.stages.device import count_processes, find_rank
from asyrp_lit.stages.guard import FailedJobError, run_folder
from asyrp_lit.stages.sweep_end import SWEEP
from asyrp_lit.training.terminate import PATIENCE, sigterm_ends


def name_start(pattern: str) -> str:
    """The time of this start; of processes that were started together one name for all, for one run folder.

    Under torchrun it is the time of the first, kept in the store of torchrun itself; srun's tasks, which may start and
    end without each other, have the number of their job and step, also when the job is queued again.
    """
    now = datetime.now().strftime(pattern)
    if find_rank().world_size == 1:
        return now
    if TorchElasticEnvironment.detect() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True):
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        return store.compare_set(f"asyrp_lit/start/{pattern}", "", now).decode()  # set where it is empty, then read
    if "SLURM_STEP_ID" in os.environ:
        return f"job-{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return now


def needs_command(cfg: DictConfig) -> bool:
    """Whether this is a sweep's job for which Lightning would start processes.

    It would give them the sweep's command, and neither its variables nor a lost collective end with the job.
    """
    is_job = HydraConfig.get().mode == RunMode.MULTIRUN
    return is_job and find_rank().world_size == 1 and count_processes(cfg) > 1


def run_command() -> None:
    """Train as a job of a sweep by a command of its own, in the job's folder.

    Raises:
        FailedJobError: it failed; its message has been given.
    """
    process = subprocess.Popen(_make_command(), env=os.environ | {SWEEP: str(HydraConfig.get().sweep.dir)})
    try:
        with sigterm_ends():
            code = process.wait()
    except KeyboardInterrupt as stop:
        with suppress(subprocess.TimeoutExpired):  # Ctrl-C in a terminal has reached it too
            process.wait(PATIENCE)
        raise SystemExit(130) from stop
    finally:
        process.terminate()  # says how to go on
        process.wait()
    if code:
        log = run_folder() / "error.log"
        reason = log.read_text().rstrip().rpartition("\n")[2] if log.is_file() else f"exit code {code}"
        raise FailedJobError(f"{run_folder()}: {reason}")


def _make_command() -> list[str]:
    hydra = HydraConfig.get()
    places = {source.provider: source.path for source in hydra.runtime.config_sources}
    command = [sys.executable, str(Path(places["main"]).parent / "train.py"), f"--config-name={hydra.job.config_name}"]
    if "command-line" in places:
        command.append(f"--config-dir={places['command-line']}")
    own = ("hydra.mode=RUN", f'hydra.run.dir="{run_folder()}"', "hydra.output_subdir=null")  # the sweep has written it
    return [*command, *hydra.overrides.hydra, *hydra.overrides.task, *own]
