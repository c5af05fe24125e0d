"""What surrounds every stage: its run folder, and errors as one message."""

import json
import logging
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from asyrp_lit.data.latent_shards import write_atomically

log = logging.getLogger(__name__)


def run_folder() -> Path:
    """The folder of this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def report_errors(stage: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """End a stage that fails on what a user gave with one message and exit code 1, the traceback kept in a file."""

    @wraps(stage)
    def guarded(cfg: DictConfig) -> None:
        try:
            stage(cfg)
        except KeyboardInterrupt:
            log.error("stopped; what was finished is kept, run again to go on")
            sys.exit(130)
        except (ValueError, OSError, FloatingPointError, InstantiationException) as error:
            path = run_folder() / "error.log"
            path.write_text(traceback.format_exc())
            log.error("%s\n(details in %s)", error.__cause__ or error, path)
            sys.exit(1)

    return guarded


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write JSON, all of it or nothing."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())
