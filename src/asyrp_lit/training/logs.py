"""The CSV log of a run."""

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger


def make_csv_logger(run: Path) -> CSVLogger:
    """``log/metrics.csv`` in the run folder; a resumed run writes ``log_2/``, since CSVLogger deletes earlier rows."""
    number = len([folder for folder in run.glob("log*") if folder.is_dir()]) + 1
    # No version, or it would stand in the progress bar.
    return CSVLogger(run, name="log" if number == 1 else f"log_{number}", version="")
