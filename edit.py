"""Edit images with a direction: ``python edit.py direction=glasses images=/path strength=1.0``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="edit")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.edit(cfg)


if __name__ == "__main__":
    main()
