"""Folders of images without depth."""

import pytest

from depth_distill.data.image_folder import ImageFolder
from depth_distill.errors import DataError
from tests.data.files import write_image


def test_images_are_found_and_sorted(tmp_path):
    write_image(tmp_path / "b.PNG", 20)
    write_image(tmp_path / "sub" / "c.jpeg", 30)
    write_image(tmp_path / "a.jpg", 10)
    write_image(tmp_path / "._a.jpg")
    (tmp_path / "notes.txt").write_text("not an image")
    data = ImageFolder(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["a", "b", "sub/c"]
    assert not data.has_depth
    image, depth_m, valid = data[1]
    assert image.unique().tolist() == [20]
    assert not depth_m.any()
    assert not valid.any()


def test_extensions_and_recursion(tmp_path):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "sub" / "c.png")
    assert len(ImageFolder(tmp_path, extensions=[".PNG"])) == 2
    assert len(ImageFolder(tmp_path, extensions=[".png"], recursive=False)) == 1
    with pytest.raises(DataError, match=r"a\.png has the same name as .*a\.jpg"):
        len(ImageFolder(tmp_path))


def test_no_images(tmp_path):
    with pytest.raises(DataError, match=r"no samples found; expected images \(by default \.jpg"):
        len(ImageFolder(tmp_path))


def test_root_is_a_file(tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg: the data folder is a file"):
        len(ImageFolder(write_image(tmp_path / "a.jpg")))
