import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from asyrp_lit.data.avatars.render import render_portrait
from asyrp_lit.data.avatars.traits import sample_traits
from asyrp_lit.plots.curves import draw_loss_curve, draw_lpips_curves, draw_strength_curves
from asyrp_lit.plots.grid import draw_contact_sheet, draw_grid, tile, to_pixels
from asyrp_lit.plots.interval import Curve, Mark, draw_interval
from asyrp_lit.plots.matrix import draw_matrix
from asyrp_lit.plots.save import save_figure

CURVES = ([0, 500, 999], [0.0, 0.3, 1.1], [0.0, 1.3, 1.4])


def portraits(n, size=32):
    pixels = np.stack([np.asarray(render_portrait(sample_traits("val", i), size)) for i in range(n)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, pixels


def rasterise(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts} | {text.get_text() for text in figure.texts}


@pytest.mark.parametrize(("size", "zoom"), [(32, None), (32, 1), (31, 3)])
def test_every_pixel_of_the_source_appears_unchanged_in_the_grid(size, zoom):
    images, pixels = portraits(3, size)
    picture = rasterise(draw_grid({"source": images, "flipped": images.flip(0)}, "glasses", "PSNR 31", zoom))
    edge = size * (zoom or round(128 / size))
    bottom = picture.shape[0] - 10
    for row in range(3):
        top = bottom - (3 - row) * edge - (2 - row) * 4
        cell = pixels[row].repeat(edge // size, axis=0).repeat(edge // size, axis=1)
        np.testing.assert_array_equal(picture[top : top + edge, 10 : 10 + edge], cell)


@pytest.mark.parametrize(("size", "cell"), [(16, 128), (64, 128), (256, 256)])
def test_the_grid_is_as_wide_as_its_columns(size, cell):
    images = torch.zeros(2, 3, size, size)
    figure = draw_grid({str(strength): images for strength in (-1, 0.5, 1)}, "title")
    assert rasterise(figure).shape[1] == 3 * cell + 2 * 4 + 2 * 10


def test_the_grid_names_title_notes_and_columns():
    figure = draw_grid({"source": portraits(1)[0], "strength 1": portraits(1)[0]}, "beard", "success 0.9")
    assert texts(figure) == {"beard", "success 0.9", "source", "strength 1"}


def test_rows_are_named_beside_their_images_and_long_names_lose_their_middle():
    images, pixels = portraits(3)
    names = ["$a$_b$.png", "begin" + "WM" * 50 + "end.png", " "]
    figure = draw_grid({"source": images}, "glasses", rows=names)
    first, long, _ = (text for text in figure.texts if text.get_ha() == "right")
    assert first.get_text() == names[0]
    lines = long.get_text().split("\n")
    assert (len(lines), lines[0][:5], "…" in lines[1], lines[2][-7:]) == (3, "begin", True, "end.png")
    picture = rasterise(figure)
    np.testing.assert_array_equal(picture[-10 - 128 : -10, -10 - 128 : -10], pixels[2].repeat(4, 0).repeat(4, 1))
    right = figure.bbox.width - 10 - 128
    assert all(0 <= text.get_window_extent().x0 < text.get_window_extent().x1 < right for text in (first, long))
    assert 10 + 132 < long.get_window_extent().y0 < long.get_window_extent().y1 < 10 + 132 + 128


def test_a_header_of_several_directions_is_broken_at_its_commas_before_it_shrinks():
    headers = ["source", "smiling 0.5, glasses -1, blond_hair 1"]
    figure = draw_grid(dict.fromkeys(headers, portraits(1)[0]), "title")
    texts = {text.get_text(): text.get_size() for text in figure.texts}
    assert texts == {"title": 11, "source": 9, "smiling 0.5,\nglasses -1,\nblond_hair 1": 9}


def test_names_that_do_not_fit_the_number_of_images_are_refused():
    with pytest.raises(ValueError, match="rows must name all of the 2 images or none, got 1 names"):
        draw_grid({"source": torch.zeros(2, 3, 8, 8)}, "title", rows=["a"])


def test_a_long_title_is_wrapped_inside_the_picture():
    figure = draw_grid({"source": portraits(1)[0]}, "a person -> a person with glasses", "success 0.91  LPIPS 0.13")
    figure.canvas.draw()
    assert all(text.get_window_extent().x1 <= figure.bbox.width for text in figure.texts)


def test_images_outside_the_range_are_clipped():
    assert to_pixels(torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0]).view(5, 1, 1, 1)).flatten().tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]


def test_tiles_run_row_by_row_and_a_short_row_ends_white():
    pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1).repeat(3, axis=3)
    sheet = tile(pixels, columns=2, zoom=2)
    assert sheet.shape == (8, 8, 3)
    assert [sheet[0, 0, 0], sheet[0, 6, 0], sheet[6, 0, 0], sheet[6, 6, 0]] == [0, 1, 2, 255]


def test_a_contact_sheet_of_64_is_eight_by_eight():
    picture = rasterise(draw_contact_sheet(torch.zeros(64, 3, 16, 16), columns=8, zoom=2))
    assert picture.shape[:2] == (8 * 32 + 7 * 4 + 20, 8 * 32 + 7 * 4 + 20)


@pytest.mark.parametrize(
    "columns", [{}, {"a": torch.zeros(0, 3, 8, 8)}, {"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(2, 3, 8, 8)}]
)
def test_columns_without_one_shape_are_refused(columns):
    with pytest.raises(ValueError, match="columns must hold images of one shape"):
        draw_grid(columns, "title")


def test_lpips_curves_name_both_thresholds_and_both_timesteps():
    figure = draw_lpips_curves(*CURVES, 0.297, 1.2, 513, 0)
    assert {"edit threshold 0.297", "boost threshold 1.2", "t_edit = 513", "t_boost = 0"} == texts(figure)
    assert rasterise(figure).shape == (540, 960, 3)


def test_t_start_is_marked_where_it_leaves_timesteps_out():
    whole, late = (draw_lpips_curves(*CURVES, 0.297, 1.2, 513, 0, t_start) for t_start in (1000, 650))
    assert texts(late) - texts(whole) == {"t_start = 650"}
    assert "t_edit ≤ t ≤ t_start" in late.axes[0].get_title(loc="left")
    assert (rasterise(late) != rasterise(whole)).any()


def test_lpips_curves_of_two_steps_which_have_one_timestep_are_drawn():
    axes = draw_lpips_curves([0], [0.3], [0.3], 0.2, 1.2, 0, 0).axes[0]
    assert axes.get_xlim() == (0, 1)


def test_curves_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        draw_lpips_curves([0, 1], *CURVES[1:], 0.3, 1.2, 500, 100)
    with pytest.raises(ValueError, match="series 'loss' has 1 values for 2 steps"):
        draw_loss_curve([0, 1], {"loss": [0.0]})


def test_the_loss_curve_shows_the_running_mean_over_the_raw_values():
    raw, smooth = draw_loss_curve([0, 1, 2, 3], {"loss": [0.0, 3.0, 0.0, 3.0]}, window=3).axes[0].lines
    assert raw.get_ydata().tolist() == [0, 3, 0, 3]
    np.testing.assert_allclose(smooth.get_ydata(), [1.5, 1, 2, 1.5])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_loss_curve_of_few_steps_is_drawn(count):
    rasterise(draw_loss_curve(list(range(count)), {"loss": [0.5] * count}))


def test_a_saved_figure_has_the_pixels_of_the_figure(tmp_path):
    figure = draw_contact_sheet(portraits(2)[0])
    path = save_figure(figure, tmp_path / "new" / "sheet.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), rasterise(figure))
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]


def test_a_failed_write_keeps_the_old_file_and_says_why(tmp_path, monkeypatch):
    figure = draw_loss_curve([0, 1], {"loss": [1.0, 0.0]})
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def fill_disk(target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fill_disk)
    with pytest.raises(OSError, match=r"cannot write the figure .*loss.png: No space left on device"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["loss.png"]


def test_strength_curves_are_a_line_a_direction_on_the_whole_range_of_the_score():
    axes = draw_strength_curves(
        [-1.0, 0.0, 1.0], {"sad": [0.0, 0.1, 0.9], "beard": [0.1, 0.2, 0.3]}, "16 portraits"
    ).axes[0]
    assert [line.get_label() for line in axes.lines] == ["sad", "beard"]
    assert axes.lines[0].get_ydata().tolist() == [0.0, 0.1, 0.9]
    assert axes.get_ylim()[0] <= 0 < 1 <= axes.get_ylim()[1]


def test_a_strength_curve_of_another_length_is_named():
    with pytest.raises(ValueError, match="series 'sad' has 1 values for 2 strengths"):
        draw_strength_curves([0.0, 1.0], {"sad": [0.0]})


TEXT, CURVE = "price$5_and_$10", Curve([0, 1], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_grid({TEXT: portraits(1)[0]}, TEXT, TEXT, rows=[TEXT]),
        lambda: draw_matrix(
            portraits(1)[0][None], [TEXT], [TEXT], TEXT, TEXT, [TEXT], aside={TEXT: portraits(1)[0][0]}
        ),
        lambda: draw_interval(CURVE, CURVE, [Mark(TEXT, 1.0, 1.0, 1)], 1.2, None, 1000, TEXT),
        lambda: draw_loss_curve([0, 1], {TEXT: [1.0, 0.0]}, TEXT),
        lambda: draw_strength_curves([0.0, 1.0], {TEXT: [0.0, 1.0]}, TEXT),
    ],
    ids=["grid", "matrix", "interval", "loss", "strength"],
)
def test_a_text_with_dollar_signs_is_written_as_it_is_and_not_as_a_formula(draw):
    figure = draw()
    rasterise(figure)
    shown = [text for text in figure.findobj(Text) if text.get_text() == TEXT]
    assert len(shown) >= 2
    assert not any(text.get_parse_math() for text in shown)
