"""Weights of the base models: ``python weights.py list`` or ``python weights.py fetch model=ddpmpp_celeba``."""

import sys
from pathlib import Path

from asyrp_lit import stages


def main() -> None:
    """Run the stage."""
    stages.weights(sys.argv[1:], Path(__file__).parent / "conf")


if __name__ == "__main__":
    main()
