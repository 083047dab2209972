"""Pages of text that nobody vouches for."""

import base64
import hashlib
import json
import math
import re

import pytest

from depth_distill.errors import ConfigError
from depth_distill.tracking.run_report import page as module
from depth_distill.tracking.run_report.page import Page, Picture, Plot, Section, Table, render, write_page
from tests.tracking.run_report.parsed import Parsed

HOSTILE = "</script><script>document.title='gone'</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(autouse=True)
def plotly():
    pytest.importorskip("plotly", reason="the extra report is not installed")


def of(*sections, **more):
    return Page(**{"title": "t", "subtitle": "s", "verdict": ["v"], "sections": sections} | more)


def full_of(text):
    """A page with a text in every place that one can be in."""
    plot = Plot(text, [{"type": "scatter", "name": text, "x": [1], "y": [math.nan]}])
    tables = [Table([text], [[text]], text, True), Table([text], [[text]], text)]
    section = Section(text, [text], [plot], tables, [Picture(text, b"\x89PNG")], [(text, text)], (text, text))
    return of(section, title=text, subtitle=text, verdict=[text], warnings=[text], facts=[(text, text)])


def test_no_text_becomes_a_tag_or_a_script():
    parsed = Parsed(render(full_of(HOSTILE)))
    assert len(parsed.scripts) == 3  # data of the plot, plotly.js, the page's own
    harmless = Parsed(render(full_of("a" * len(HOSTILE))))
    assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(each) for _, each in parsed.tags] == [sorted(each) for _, each in harmless.tags]


def test_the_data_of_a_plot_come_back_as_they_were_with_null_for_nan():
    parsed = Parsed(render(full_of(HOSTILE)))
    data = json.loads(parsed.scripts[0])
    assert data["data"] == [{"type": "scatter", "name": HOSTILE, "x": [1], "y": [None]}]


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_fetched():
    parsed = Parsed(render(full_of(HOSTILE)))
    policy = next(attributes["content"] for tag, attributes in parsed.tags if "http-equiv" in attributes)
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in parsed.scripts[1:]]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    assert "script-src 'sha256-" in policy
    for _, attributes in parsed.tags:
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")


def test_a_page_without_plots_has_no_plotly():
    assert len(render(of(Section("a", ["b"])))) < 20_000


def test_a_package_that_is_missing_is_a_line_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "plotly" else name)
    expected = r"needs the package plotly, which is not installed: pip install 'depth-distill\[report\]'"
    with pytest.raises(ConfigError, match=expected):
        write_page(of(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
