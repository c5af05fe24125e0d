"""The runs of a sweep on one HTML page: ``python sweep_report.py outputs/sweeps/train/TIME``."""

import sys
from pathlib import Path

from asyrp_lit import stages


def main() -> None:
    """Run the stage."""
    stages.sweep_report(sys.argv[1:], Path(__file__).parent / "conf")


if __name__ == "__main__":
    main()
