"""Fill the latent stores of a data set: ``python invert.py data=folder data.train.folder=/path/to/images``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="invert")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.invert(cfg)


if __name__ == "__main__":
    main()
