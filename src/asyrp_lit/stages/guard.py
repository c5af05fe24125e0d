"""What surrounds every stage: its run folder, errors as one message, and quiet libraries."""

import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

from asyrp_lit.files import FULL, write_atomically
from asyrp_lit.models.capacity import is_out_of_memory
from asyrp_lit.stages.device import find_rank
from asyrp_lit.stages.sweep_end import SWEEP, end_with_sweep
from asyrp_lit.training.requeue import requeues_on_signal
from asyrp_lit.training.terminate import Terminated, is_lost_peer, sigterm_ends

log = logging.getLogger(__name__)
In = TypeVar("In")
Out = TypeVar("Out")
Result = TypeVar("Result")

#: What our own checks raise, and what libraries raise on a file, a value or a machine that does not fit.
USER_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    OmegaConfBaseException,
    MisconfigurationException,
    SafetensorError,
    torch.OutOfMemoryError,
    HydraException,
)
#: Beginnings of warnings that say nothing to a person who runs a stage.
NOISE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch to Lightning
    r"`torch\.jit\.script` is deprecated",  # torch to its own forward mode
    r"Found \d+ module\(s\) in eval mode at the start of training",  # they are frozen
    r"GPU available but not used",  # trainer=cpu was asked for
    r"Checkpoint directory .* exists and is not empty",  # pretraining goes on in its folder
    r"Be aware that when using `ckpt_path`.*: \[\"ModelCheckpoint\{[^}]*\}\"\]\.$",  # it once kept pretraining's states
    r"It is recommended to use `self\.log\(.*sync_dist=True\)`",  # metrics that are those of all processes already
    r"The '\w+' does not have many workers",  # a store is read faster than a network runs
    r"Glyph \d+ \(.*\) missing from font",  # matplotlib, of a file's name beside its pictures
    r"Image size \(\d+ pixels\) exceeds limit",  # Pillow, of photos that it does read; it refuses those twice as large
)


def run_folder() -> Path:
    """The folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def find_sweep() -> Path | None:
    """The folder of this job's sweep; ``None`` for a run of its own."""
    hydra = HydraConfig.get()
    folder = hydra.sweep.dir if hydra.mode == RunMode.MULTIRUN else os.environ.get(SWEEP)
    return None if folder is None else Path(folder)


def is_wanted(record: logging.LogRecord) -> bool:
    """Not open_clip's notes to the root logger, nor an error there, which it raises as well."""
    return "open_clip" not in record.pathname or record.levelno == logging.WARNING


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No notes of Lightning (devices, tips, restored states) and none of the ``NOISE``; other warnings pass."""
    root, *loggers = (logging.getLogger(name) for name in (None, "lightning.pytorch", "lightning.fabric"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    root.addFilter(is_wanted)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        root.removeFilter(is_wanted)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_expected(error: BaseException | None) -> bool:
    """Whether a message says all of an error: it comes from what a user gave, or from a machine that does not fit."""
    known = (is_out_of_memory, is_wandbs, is_lost_peer)
    return isinstance(error, USER_ERRORS) or (error is not None and any(knows(error) for knows in known))


def is_wandbs(error: BaseException) -> bool:
    """Whether Weights & Biases refuses something: no key, no network, no rights."""
    return type(error).__module__.startswith("wandb.errors")  # importing it takes scripts without it a second


def describe_error(error: BaseException) -> str:
    """The message of an error; where a part could not be built for a reason of its own, that reason."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, USER_ERRORS):
        error = error.__cause__
    text, hint = str(error), ""
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        text = error.strerror
    if isinstance(error, OSError) and error.errno in FULL:
        hint = (
            "; the disk is full: make room, or choose other folders with paths.outputs, paths.latents and paths.cache "
            "(latents.cache for copies of remote stores)"
        )
    if is_wandbs(error):
        hint = "; logger.wandb.offline=true needs neither a key nor a network, wandb sync uploads such a run later"
    if is_lost_peer(error):
        text = "another process of this run ended first; its message, if it had time for one, says why"
    if is_out_of_memory(error):
        text = (text.splitlines() or ["no memory is left"])[0]  # Python's own MemoryError has no text
        hint = (
            "; the memory is full: lower method.chunk_size in training (1 takes least, auto what fits; the result "
            "is the same), then method.batch_size, elsewhere inversion_batch_size, or take trainer.precision=bf16-mixed"
        )
    return f"{text.rstrip('.') if hint else text}{hint}"


def keep_traceback() -> str:
    """Write ``error.log`` into the run folder and say where it is; says nothing where the disk takes no more.

    Nor where the start was refused and the folder's own run has not failed. What a process says of the end of another
    does not take the place of what that one wrote.
    """
    path = run_folder() / "error.log"
    if isinstance(sys.exception(), BlockingIOError | RefusedStartError):
        return ""
    try:
        with path.open("x" if is_lost_peer(sys.exception()) else "w") as file:
            file.write(traceback.format_exc())
    except OSError:
        return ""
    return f"\n(details in {path})"


@contextmanager
def errors_as_messages(note: Callable[[], str] = str) -> Iterator[None]:
    """End what fails on what a user gave with one message and exit code 1, 130 on Ctrl-C, or 143 on SIGTERM.

    On SIGUSR1 a job of SLURM is queued again, and goes on.

    Args:
        note: called in the handler of the error, for what follows the message; the default adds nothing.
    """
    try:
        with quiet_libraries(), sigterm_ends(), requeues_on_signal():
            yield
    except KeyboardInterrupt as stop:
        log.error("stopped; what was finished is kept, %s", str(stop) or "run again to go on")
        sys.exit(130)
    except Terminated as stop:
        if find_rank().number == 0:
            log.error("ended by SIGTERM; what was finished is kept, %s", stop.note or "run again to go on")
        raise
    except Exception as error:
        if not is_expected(error):
            raise
        log.error("%s%s", describe_error(error), note())
        sys.exit(1)


class RefusedStartError(ValueError):
    """A start in the folder of another run, which stays as it is."""


class FailedJobError(CompactHydraException):
    """A job of a sweep failed; Hydra goes on with the others, and ends with this message and exit code 1."""


def report_errors(stage: Callable[[DictConfig], Result]) -> Callable[[DictConfig], Result]:
    """End a stage that fails on what a user gave with one message and exit code 1, the traceback kept in a file.

    A job of a sweep raises ``FailedJobError`` in place of the exit, so that the other jobs run; it ends with its sweep.
    """

    @wraps(stage)
    def guarded(cfg: DictConfig) -> Result:
        end_with_sweep()
        try:
            with errors_as_messages(keep_traceback):
                return stage(cfg)
        except SystemExit as stop:
            error = stop.__context__
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if not in_sweep or isinstance(stop, Terminated) or not is_expected(error):
                raise
            assert error is not None
            raise FailedJobError(describe_error(error)) from error
        except Exception:
            keep_traceback()
            raise

    return guarded


@contextmanager
def console_log() -> Iterator[None]:
    """Log to the standard output as Hydra has it, for scripts without a run folder."""
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def try_each(items: Sequence[In], name: Callable[[In], str], work: Callable[[In], Out]) -> tuple[list[Out], int]:
    """The results of the items that succeed, and how many failed.

    Each failure is logged under its ``name``; where there is one item only, its error is raised instead.
    """
    results: list[Out] = []
    for item in items:
        try:
            results.append(work(item))
        except USER_ERRORS as error:
            if len(items) == 1:
                raise
            log.error("%s: %s", name(item), describe_error(error))
    return results, len(items) - len(results)


def raise_failed(failed: int, total: int) -> None:
    """Say at the end that some of several files failed.

    Raises:
        ValueError: at least one did.
    """
    if failed:
        raise ValueError(f"{failed} of {total} files failed, see above")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, all of it or nothing; numbers that JSON does not have, NaN and infinities, are null."""
    write_atomically(path, (json.dumps(_make_strict(values), indent=2, allow_nan=False) + "\n").encode())


def _make_strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _make_strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_make_strict, value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def load_metrics(path: Path) -> dict[str, float]:
    """The numbers of a file that ``write_json`` wrote; null is NaN.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is something else.
    """
    try:
        found = json.loads(path.read_text())
        return {name: math.nan if value is None else float(value) for name, value in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
