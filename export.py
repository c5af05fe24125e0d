"""Weights and model card of a pretrained network: ``python export.py network=ddpmpp_avatars``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="pretrain")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.export(cfg)


if __name__ == "__main__":
    main()
