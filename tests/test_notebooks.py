"""The notebooks of the docs run from beginning to end, in small, and reach what they promise."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes


def executed(name, folder, monkeypatch):
    """The dictionary ``result`` of a notebook that was executed in small."""
    monkeypatch.setenv("DEPTH_DISTILL_SMALL", "1")
    monkeypatch.setenv("TMPDIR", str(folder))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", 4)
    notebook.cells.append(nbformat.v4.new_code_cell("import json\nprint(json.dumps(result))"))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return json.loads(notebook.cells[-1].outputs[0].text)


@pytest.mark.slow
def test_a_network_is_rescued(tmp_path, monkeypatch):
    result = executed("rescue", tmp_path, monkeypatch)
    assert result["repaired_mm"] < 0.5 * result["broken_mm"]
    assert result["exported_mm"] < 0.5 * result["broken_mm"]
    (bundle,) = tmp_path.glob("rescue-*/bundle")
    assert (bundle / "model.float.onnx").is_file()


@pytest.mark.slow
def test_a_student_is_distilled(tmp_path, monkeypatch):
    result = executed("distil", tmp_path, monkeypatch)
    assert result["epochs"] == 4
    assert result["student_fp32"] < result["cut_fp32"]
    assert result["student_int8"] < result["cut_int8"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_it_ran(path):
    assert path.stat().st_size < LARGEST
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    printed = " ".join(output.get("text", "") for output in outputs)
    assert not re.search(r"/(?:tmp|home|root|Users)/", printed)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pages_are_named_and_not_linked_which_the_site_would_not_resolve(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
    assert "](" not in text
    for name in re.findall(r"`(docs/[\w/.]+|configs/[\w/.]+)`", text):
        assert (FOLDER.parents[1] / name).is_file(), name
