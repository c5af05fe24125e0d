"""Find directions without a text: ``python discover.py method=pca``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="discover")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.discover(cfg)


if __name__ == "__main__":
    main()
