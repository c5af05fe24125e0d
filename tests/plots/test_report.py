"""The page is read as a browser would: by parsing it."""

import math
from html.parser import HTMLParser

import pytest
from PIL import Image

from asyrp_lit.plots.report import RunRow, format_number, render_report, split_settings


class Page(HTMLParser):
    """Texts of the cells, sort keys, classes of the rows, sources of the pictures; fails on tags that do not match."""

    VOID = ("meta", "img")

    def __init__(self, html):
        super().__init__()
        self.open, self.rows, self.keys, self.classes, self.sources, self.text = [], [], [], [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
            self.keys.append([])
            self.classes.append((attrs.get("class") or "").split())
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.keys[-1].append(attrs.get("data-key"))
        if tag == "img" and "src" in attrs:
            self.sources.append(attrs["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def rows(tmp_path):
    grid = tmp_path / "1 a" / "grid.png"
    grid.parent.mkdir()
    Image.new("RGB", (64, 32), "red").save(grid)
    same = {"attr": "glasses"}
    return [
        RunRow("0", "failed", same | {"lr": "1e30"}, {}, None, None, "the loss became <inf>", False),
        RunRow("1 a", "finished", same | {"lr": "5e-4"}, {"success": 0.84375, "psnr": 30.0}, 2.04, grid, "", True),
        RunRow("2", "unfinished", same, {}, None, None, "", False),
    ]


def render(rows, folder, embedded=2**20):
    return render_report("sweep <1>", rows, "success (high)", folder, embedded)


def test_every_run_is_a_row_with_what_it_has(rows, tmp_path):
    page = Page(render(rows, tmp_path))
    assert page.rows == [
        ["run", "front", "lr", "success", "psnr", "minutes", "grid"],
        ["0 (failed)", "", "1e30", "", "", "", ""],
        ["1 a", "★", "5e-4", "0.8438", "30", "2.0", ""],
        ["2 (unfinished)", "", "", "", "", "", ""],
    ]
    assert page.classes[1:] == [["failed"], ["finished", "front"], ["unfinished"]]
    assert "3 runs: 1 finished, 1 failed, 1 unfinished" in page.text
    assert "attr=glasses" in page.text


def test_numbers_sort_as_numbers_and_nothing_last(rows, tmp_path):
    keys = [row[2:5] for row in Page(render(rows, tmp_path)).keys[1:]]
    assert [[float(key) if key else None for key in row] for row in keys] == [
        [1e30, None, None],
        [5e-4, 0.84375, 30.0],
        [None, None, None],
    ]


def test_what_runs_say_is_shown_and_never_becomes_markup(rows, tmp_path):
    html = render(rows, tmp_path)
    assert "the loss became <inf>" in Page(html).text
    assert "<inf>" not in html
    assert "<title>sweep &lt;1&gt;</title>" in html


def test_the_page_needs_no_file_beside_it_unless_the_grids_are_too_large(rows, tmp_path):
    html = render(rows, tmp_path)
    assert [source.partition(",")[0] for source in Page(html).sources] == ["data:image/png;base64"]
    assert "http" not in html
    assert Page(render(rows, tmp_path, embedded=10)).sources == ["1%20a/grid.png"]
    (tmp_path / "elsewhere").mkdir()
    assert Page(render(rows, tmp_path / "elsewhere", embedded=10)).sources == ["../1%20a/grid.png"]


def test_settings_are_split_into_those_that_differ_and_those_that_all_share(rows):
    assert split_settings(rows) == (["lr"], {"attr": "glasses"})
    assert split_settings(rows[:1]) == (["attr", "lr"], {})


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.12345, "0.1235"), (31.1, "31.1"), (math.nan, "nan")])
def test_numbers_are_short(value, text):
    assert format_number(value) == text
