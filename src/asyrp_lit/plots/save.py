"""Write figures to disk."""

import os
from pathlib import Path

from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG so that ``path`` is either the old file or the whole new one; missing folders are made.

    The picture has the figure's own pixels: nothing is cropped or resampled.

    Returns:
        ``path``.

    Raises:
        OSError: it cannot be written (a full disk, no permission); names the path, leaves nothing half-written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(temporary, format="png", dpi=figure.dpi)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"cannot write the figure {path}: {reason}; check free space and permissions") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path
