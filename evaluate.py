"""Judge a direction file on held-out images: ``python evaluate.py direction=/path/to/beard.safetensors``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.evaluate(cfg)


if __name__ == "__main__":
    main()
