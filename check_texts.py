"""How well two texts name a change of portraits: ``python check_texts.py attr=beard``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="check_texts")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.check_texts(cfg)


if __name__ == "__main__":
    main()
