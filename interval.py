"""What t_edit and t_boost mean on your images: ``python interval.py attributes=[smiling,beard]``."""

import hydra
from omegaconf import DictConfig

from asyrp_lit import stages


@hydra.main(version_base="1.3", config_path="conf", config_name="measure_interval")
def main(cfg: DictConfig) -> None:
    """Run the stage."""
    stages.measure_interval(cfg)


if __name__ == "__main__":
    main()
