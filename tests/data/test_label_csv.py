import logging

import pytest

from asyrp_lit.data.label_csv import read_label_csv


def refuse():
    raise AssertionError("keys of other images are listed only where one is named")


@pytest.mark.parametrize("header", ["", "key,class\n", "\ufeffKey, Class\n"])
def test_each_line_gives_an_image_its_class(tmp_path, header):
    path = tmp_path / "classes.csv"
    path.write_text(f'{header}b.png, cat\n\n"a, 1.png",dog\n')
    assert read_label_csv(path, ["a, 1.png", "b.png", "c.png"], refuse) == {"b.png": "cat", "a, 1.png": "dog"}


def test_images_of_the_other_split_may_be_named_and_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "classes.csv"
    path.write_text("v.png,cat\na.png,dog\nw.png,dog\n")
    assert read_label_csv(path, ["a.png"], lambda: ["v.png", "w.png"]) == {"a.png": "dog"}
    assert "2 images that it names are not among the train images and left out" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z.png,cat", "names 'z.png', which is none of the images, such as 'a.png'"),
        ("a.png,cat\na.png,dog", "names 'a.png' twice"),
        ("a.png;cat", "must have lines KEY,CLASS, got 'a.png;cat'"),
        ("a.png,", "must have lines KEY,CLASS, got 'a.png,'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_csv(path, ["a.png"], lambda: ["v.png"])


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_that_is_not_in_utf_8_is_named(tmp_path, encoding):
    (tmp_path / "classes.csv").write_text("a.png,süß\n", encoding=encoding)
    with pytest.raises(ValueError, match=r"classes.csv is not in UTF-8 .*: save it as CSV in UTF-8"):
        read_label_csv(tmp_path / "classes.csv", ["a.png"], refuse)


def test_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the file of classes .* is a folder"):
        read_label_csv(tmp_path, ["a.png"], refuse)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the file of classes .*none.csv does not exist"):
        read_label_csv(tmp_path / "none.csv", ["a.png"], refuse)
