"""Released directions and direction files: ``python directions.py import FILE.pth model=ddpmpp_celeba``."""

import sys
from pathlib import Path

from asyrp_lit import stages


def main() -> None:
    """Run the stage."""
    stages.directions(sys.argv[1:], Path(__file__).parent / "conf")


if __name__ == "__main__":
    main()
