"""The page of a roadmap's record."""

import json

import pytest

from depth_distill.errors import ConfigError
from depth_distill.roadmap import COLUMNS
from depth_distill.roadmap.page import roadmap_page
from tests.roadmap.test_report import FOUND


def test_a_table_per_network_and_its_best_row(tmp_path):
    (tmp_path / "roadmap.json").write_text(json.dumps(FOUND))
    page = roadmap_page(tmp_path)
    assert page.verdict == [
        "plain: distilled is the best row with abs_rel 0.0500, 1.000 times FP32.",
        "stressed: PTQ is the best row with abs_rel 0.2000, 4.000 times FP32.",
    ]
    plain, stressed = page.sections[0].tables
    assert plain.header == ["row", *COLUMNS]
    assert plain.rows[2][:2] == ["other heads", "cannot run: no such head"]
    assert [row[:2] for row in stressed.rows] == [["FP32", "0.0500"], ["PTQ", "0.2000"]]


@pytest.mark.parametrize("content", ["[]", "{}", '{"networks": 3}', '{"networks": {"a": {"rows": 3}}}'])
def test_another_record_is_refused(tmp_path, content):
    (tmp_path / "roadmap.json").write_text(content)
    with pytest.raises(ConfigError, match=r"roadmap\.json is not the record of a roadmap"):
        roadmap_page(tmp_path)


def test_a_roadmap_without_a_result_is_refused(tmp_path):
    (tmp_path / "roadmap.json").write_text('{"networks": {}}')
    with pytest.raises(ConfigError, match=r"has no result yet"):
        roadmap_page(tmp_path)
