"""The page in a browser without a network: plots are drawn, and no text of the run is executed.

Chromium is looked for on PATH, or is what the environment variable CHROME names.
"""

import os
import re
import shutil
import subprocess

import pytest
import yaml

from depth_distill.tracking.run_report.folder import read_run
from depth_distill.tracking.run_report.page import write_page
from depth_distill.tracking.run_report.run_page import run_page
from tests.tracking.run_report.parsed import Parsed
from tests.tracking.run_report.recorded import config, rows, write_layers, write_log, write_picture, write_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
GONE = "document.title='gone'"
HOSTILE = f"</script><script>{GONE}</script><img src=x onerror={GONE}><a href=https://a.test>b</a>"


@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("plotly", reason="the extra report is not installed")
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} on PATH, and CHROME is not set")
    return found


def opened(chromium, path, profile):
    """The document after all scripts, and what they wrote to the console."""
    words = [
        *("--headless=new", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"),
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--virtual-time-budget=10000"),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]
    command = [chromium, *words, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def drawn(document):
    """The number of plots that are."""
    return sum("js-plotly-plot" in str(attributes.get("class")) for _, attributes in Parsed(document).tags)


def test_all_plots_are_drawn_and_nothing_is_said_on_the_console(chromium, tmp_path):
    folder = write_run(tmp_path / "run", vendor=[0.5, 0.4, 0.3])
    write_layers(folder)
    write_picture(folder / "pictures" / "val.png")
    page = run_page(read_run(folder))
    write_page(page, folder / "report.html")
    document, console = opened(chromium, folder / "report.html", tmp_path / "profile")
    assert console == []
    plots = sum(len(section.plots) for section in page.sections)
    assert plots == 10
    assert drawn(document) == plots
    assert document.count('<svg class="main-svg"') >= plots
    curves = sum(trace["type"] == "scatter" for each in page.sections for plot in each.plots for trace in plot.traces)
    assert curves == 11
    assert document.count('<g class="trace scatter') == curves
    assert "Cloud" not in re.sub(r"<(script|style).*?</\1>", "", document, flags=re.DOTALL)  # no button leads away


def test_no_text_of_a_run_is_executed(chromium, tmp_path):
    folder = write_run(tmp_path / "run")
    content = config(3, monitor=HOSTILE, encoder=HOSTILE)
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    found = [
        {**row, f"mine/{HOSTILE}": 1, f"train/{HOSTILE}": 2, f"val/abs_rel_{HOSTILE}": 3} for row in rows([0.4, 0.3])
    ]
    write_log(folder / "metrics.csv", found)
    write_layers(folder, layers=[(HOSTILE, HOSTILE, -1, 1, -1, 1, 0.5)])
    page = run_page(read_run(folder))
    write_page(page, folder / "report.html")
    document, console = opened(chromium, folder / "report.html", tmp_path / "profile")
    assert console == []
    assert "<title>gone</title>" not in document
    tags = Parsed(document).tags
    assert "img" not in {tag for tag, _ in tags}
    assert "onerror" not in {name for _, attributes in tags for name in attributes}
    assert not [attributes for tag, attributes in tags if tag == "a" and "href" in attributes]
    assert drawn(document) == sum(len(each.plots) for each in page.sections)
