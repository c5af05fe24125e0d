from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from asyrp_lit.plots.grid import to_pixels
from asyrp_lit.plots.matrix import Band, draw_matrix

CELLS = torch.rand(4, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
ROWS, COLUMNS = ["x_t", "P_t"] * 2, [f"t = {t}" for t in (0, 281, 999)]
BANDS = [Band(0, 0, "plain", "#888888"), Band(1, 2, "edit", "#0072b2")]


def rasterise(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def find(picture, image):
    """Where an image, twice enlarged, begins in a picture: its rows and columns."""
    cell = to_pixels(image[None])[0].repeat(2, axis=0).repeat(2, axis=1)
    corner = (picture[: -len(cell) + 1, : -len(cell) + 1] == cell[0, 0]).all(axis=-1)
    places = zip(*np.nonzero(corner), strict=True)
    return [(y, x) for y, x in places if (picture[y : y + 128, x : x + 128] == cell).all()]


def test_every_image_is_in_its_row_and_column_pixel_for_pixel():
    picture = rasterise(draw_matrix(CELLS, ROWS, COLUMNS, "title", "notes", groups=["one", "two"], bands=BANDS))
    places = np.array([[find(picture, image)[0] for image in row] for row in CELLS])
    assert (np.diff(places[..., 1], axis=0) == 0).all()
    assert (np.diff(places[..., 1], axis=1) == 128 + 4).all()
    assert np.diff(places[:, 0, 0]).tolist() == [132, 142, 132]  # a wider gap between the groups


@pytest.mark.parametrize("num_rows", [1, 2, 3], ids=["more than rows", "as many", "fewer"])
def test_images_beside_the_cells_stand_left_of_them(num_rows):
    aside = {"source": CELLS[3, 2], "reconstruction": CELLS[3, 1]}
    rows = [f"t_edit = {t}" for t in range(num_rows)]
    picture = rasterise(draw_matrix(CELLS[:num_rows], rows, COLUMNS, "title", aside=aside))
    (first,), (source,), (second,) = find(picture, CELLS[0, 0]), find(picture, CELLS[3, 2]), find(picture, CELLS[3, 1])
    assert source[0] == first[0]
    assert source[1] + 128 < first[1]
    assert second == (source[0] + 132, source[1])


@pytest.mark.parametrize("bands", [(), BANDS], ids=["plain", "bands"])
def test_no_two_words_overlap_and_none_leaves_the_figure(bands):
    figure = draw_matrix(CELLS, ROWS, COLUMNS, "title", "notes", ["train-000001", "train-000002"], bands)
    FigureCanvasAgg(figure).draw()
    boxes = {text: text.get_window_extent() for text in figure.texts}
    assert [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])] == []
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes.values())
    assert {*ROWS, *COLUMNS, *(band.text for band in bands)} <= {text.get_text() for text in boxes}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((CELLS, ROWS[:3], COLUMNS, ""), "for 3 rows and 3 columns"),
        ((CELLS[:0], [], COLUMNS, ""), "one or more"),
        ((CELLS, ROWS, COLUMNS, "", None, ["a", "b", "c"]), "4 rows cannot be split into 3 groups"),
    ],
)
def test_names_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_matrix(*arguments)
