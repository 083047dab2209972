"""Options that name where results go are refused before the work, not after it."""

import argparse

import pytest

from depth_distill.commands.values import output_file, output_folder, output_picture, whole_number


@pytest.fixture
def full(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    return tmp_path


def test_what_can_be_written_is_taken(full):
    for taken, name in ((output_file, "new/a.json"), (output_file, "file"), (output_picture, "a.PNG")):
        assert taken(str(full / name)) == full / name
    for name in ("folder", "new/deep"):
        assert output_folder(str(full / name)) == full / name


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (output_file, "folder", "is a folder"),
        (output_file, "file/a.json", "file is a file, expected a folder there"),
        (output_file, "a" * 5000 + "/x", "File name too long"),
        (output_picture, "a.foo", "must end in .png"),
        (output_picture, "a", "must end in .png"),
        (output_folder, "file", "exists and is not a folder: choose another"),
        (output_folder, "file/x/y", "file exists and is not a folder"),
    ],
)
def test_what_cannot_is_refused(full, kind, name, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        kind(str(full / name))


def test_a_folder_without_permission_is_refused(full, monkeypatch):
    monkeypatch.setattr("os.access", lambda *words: False)  # root may write everywhere
    with pytest.raises(argparse.ArgumentTypeError, match="folder cannot be written to"):
        output_file(str(full / "folder" / "a.json"))


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1.5", "", "1e3", "٣x"])
def test_counts_are_whole_and_positive(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number of 1 or more"):
        whole_number(text)
