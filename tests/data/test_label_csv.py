import pytest

from asyrp_lit.data.label_csv import read_label_csv


@pytest.mark.parametrize("header", ["", "key,class\n"])
def test_each_line_gives_an_image_its_class(tmp_path, header):
    path = tmp_path / "classes.csv"
    path.write_text(f'{header}b.png, cat\n\n"a, 1.png",dog\n')
    assert read_label_csv(path, ["a, 1.png", "b.png", "c.png"]) == {"b.png": "cat", "a, 1.png": "dog"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z.png,cat", "names 'z.png', which is none of the 1 train images, such as 'a.png'"),
        ("a.png,cat\na.png,dog", "names 'a.png' twice"),
        ("a.png;cat", "must have lines KEY,CLASS, got 'a.png;cat'"),
        ("a.png,", "must have lines KEY,CLASS, got 'a.png,'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_csv(path, ["a.png"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the file of classes .*none.csv does not exist"):
        read_label_csv(tmp_path / "none.csv", ["a.png"])
