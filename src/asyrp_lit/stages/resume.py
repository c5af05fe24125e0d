"""Going on with a training that was stopped."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from omegaconf import DictConfig, OmegaConf

from asyrp_lit.training.asyrp import AsyrpModule

#: What a resumed training may not change of its method and latents; passes, workers, the optimiser's settings are free.
FIXED_METHOD = (
    *(
        "method.kind",
        "method.num_steps",
        "method.t_0",
        "method.batch_size",
        "method.stagger",
        "method.trajectory",
        "method.loss",
    ),
    "method.calibration.num_images",
    *("latents.kind", "latents.train", "latents.val", "latents.seed"),
    "seed",
)


def find_checkpoint(cfg: DictConfig) -> Path | None:
    """The checkpoint of the run folder to resume, ``None`` for a new run.

    Raises:
        FileNotFoundError: the folder has none.
        ValueError: the folder's run is about something else.
    """
    if cfg.resume is None:
        return None
    path = Path(cfg.resume) / "last.ckpt"
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist; resume=FOLDER names a run folder")
    folder = path.with_name(".hydra")
    for group in ("attr", "model", "interval", "clip", "data", *FIXED_METHOD) if folder.is_dir() else ():
        if OmegaConf.select(OmegaConf.load(folder / "config.yaml"), group) != OmegaConf.select(cfg, group):
            overrides = " ".join(str(override) for override in OmegaConf.load(folder / "overrides.yaml"))
            raise ValueError(
                f"{cfg.resume} was started with another {group}; resume it with its overrides: {overrides}"
            )
    return path


def check_fits(checkpoint: Path, module: AsyrpModule) -> None:
    """See that a checkpoint is whole and of this direction.

    Raises:
        ValueError: it is not.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["state_dict"])
    except (RuntimeError, KeyError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{checkpoint} cannot be resumed with these settings, or is damaged: repeat the overrides in "
            f"{checkpoint.parent / '.hydra' / 'overrides.yaml'}"
        ) from error


def read_batch_size(checkpoint: Path) -> int | None:
    """Images per update of the run that left a checkpoint; ``None`` if it does not say."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state.get("batch_size")  # type: ignore[no-any-return]
