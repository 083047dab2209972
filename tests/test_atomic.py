"""A file is whole or it is not there."""

import errno
import json
import math
import os

import pytest

from depth_distill.atomic import atomic_path, remove_partial_files, write_json


def test_a_finished_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    for text in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("ha")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    path, done = tmp_path / "file.txt", []
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append((os.fstat(descriptor).st_size, path.read_text())))
    with atomic_path(path) as temporary:
        temporary.write_text("newer")
    assert done[0] == (5, "old")  # all of the file, while the previous one is still in its place
    assert done[1][1] == "newer"  # then the folder


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".last.123-partial.ckpt", ".readme.9-partial", ".my-partial.ckpt", "a-partial.ckpt", "last.ckpt"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".my-partial.ckpt", "a-partial.ckpt", "last.ckpt"}


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"abs_rel": 0.03})
    assert json.loads((tmp_path / "a.json").read_text()) == {"abs_rel": 0.03}


def test_what_json_has_no_number_for_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"bands": [1.5, math.nan, (math.inf, 2)], "name": "a"})
    written = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)  # called on NaN and Infinity
    assert written == {"bands": [1.5, None, [None, 2]], "name": "a"}


def test_an_error_names_the_file_also_where_numpy_does_not(tmp_path):
    of_numpy, of_a_full_disk = OSError("6144 requested and 3040 written"), OSError(errno.ENOSPC, "full")
    for raised, expected in ((of_numpy, errno.EIO), (of_a_full_disk, errno.ENOSPC)):
        with pytest.raises(OSError, match="written|full") as caught, atomic_path(tmp_path / "a.npy"):
            raise raised
        assert (caught.value.errno, caught.value.filename) == (expected, str(tmp_path / "a.npy"))
    assert not list(tmp_path.iterdir())
