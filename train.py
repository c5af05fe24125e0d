"""Train a direction for an attribute: ``python train.py attr=young model=ddpmpp_celeba``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """Run the stage; a sweeper gets the metrics that ``objective`` names."""
    return stages.train(cfg)


if __name__ == "__main__":
    main()
