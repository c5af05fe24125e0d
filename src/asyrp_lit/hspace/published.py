"""LPIPS curves that the authors of Asyrp published for five data sets: an interval without a profiling run."""

import csv
from functools import lru_cache
from importlib.resources import files

from asyrp_lit.hspace.interval import LPIPSCurves

#: Names of the curves, by data set.
PUBLISHED_CURVES = ("celeba", "church", "bedroom", "afhq", "metface")
#: Edge in pixels of the images that they were measured on.
PUBLISHED_IMAGE_SIZE = 256
#: Images behind each mean, about.
_NUM_IMAGES = 100


@lru_cache(maxsize=1)
def _read_table() -> tuple[dict[str, str], ...]:
    text = files("asyrp_lit").joinpath("assets", "lpips_curves", "curves.csv").read_text()
    return tuple(csv.DictReader(text.splitlines()))


def load_published_curves(name: str) -> LPIPSCurves:
    """The curves of a data set at t = 1 to 999; 998 is missing, as published.

    Args:
        name: one of ``PUBLISHED_CURVES``.

    Raises:
        ValueError: there are no curves of that name.
    """
    if name not in PUBLISHED_CURVES:
        raise ValueError(f"curves must be one of {', '.join(PUBLISHED_CURVES)}, got {name!r}")
    rows = _read_table()
    return LPIPSCurves(
        timesteps=tuple(int(row["t"]) for row in rows),
        pred_x0=tuple(float(row[f"{name}_pred_x0"]) for row in rows),
        x_t=tuple(float(row[f"{name}_x_t"]) for row in rows),
        num_images=_NUM_IMAGES,
    )
