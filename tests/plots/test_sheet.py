import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from asyrp_lit.plots.grid import draw_grid
from asyrp_lit.plots.sheet import Block, draw_sheet


def rasterise(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def make_block(value=0.0, notes=None, size=32):
    images = torch.full((2, 3, size, size), value)
    return Block({"-1": images, "0": images, "1": images}, "a title", notes)


def test_every_grid_of_the_sheet_is_that_of_draw_grid():
    block = make_block(0.3, "some notes")
    whole, part = rasterise(draw_sheet([block, make_block()])), rasterise(draw_grid(*block))
    height, width = part.shape[:2]
    np.testing.assert_array_equal(whole[10 : 10 + height, 10 : 10 + width], part)


def test_grids_fill_rows_and_the_rest_is_white():
    height, width = rasterise(draw_grid(*make_block(-1.0))).shape[:2]
    picture = rasterise(draw_sheet([make_block(-1.0)] * 3))
    assert picture.shape[:2] == (2 * height + 20, 2 * width + 20)
    assert (picture[10 + height :, 10 + width :] == 255).all()


def test_large_images_are_shrunk():
    assert rasterise(draw_sheet([make_block(size=512)])).shape == rasterise(draw_sheet([make_block(size=128)])).shape


@pytest.mark.parametrize(("blocks", "per_row"), [([], 2), ([make_block()], 0)])
def test_a_sheet_of_nothing_is_refused(blocks, per_row):
    with pytest.raises(ValueError, match=f"got {len(blocks)} and {per_row}"):
        draw_sheet(blocks, per_row)
