"""A file is whole or it is not there."""

import json
import math

import pytest

from depth_distill.atomic import atomic_path, write_json


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


def test_json_round_trip(tmp_path):
    write_json(tmp_path / "a.json", {"abs_rel": 0.03})
    assert json.loads((tmp_path / "a.json").read_text()) == {"abs_rel": 0.03}


def test_what_json_has_no_number_for_is_null(tmp_path):
    write_json(tmp_path / "a.json", {"bands": [1.5, math.nan, (math.inf, 2)], "name": "a"})
    written = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)  # called on NaN and Infinity
    assert written == {"bands": [1.5, None, [None, 2]], "name": "a"}
