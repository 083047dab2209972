"""A bundle on disk: complete, unchanged, and replaced at once."""

import json

import numpy as np
import pytest
from rich.console import Console

from depth_distill.codecs import DepthRange, HostSingle, describe_codec
from depth_distill.errors import ConfigError
from depth_distill.export.bundle.bundle import (
    bundle_of,
    load_bundle,
    put_in_place,
    recover,
    require_replaceable,
    work_folder,
)
from depth_distill.export.bundle.manifest import write_manifest
from depth_distill.export.device.case import Case, CaseOptions
from depth_distill.export.pick.outcome import PickOptions
from depth_distill.export.pick.picking import pick_calibration
from depth_distill.quantization.interface import OutputLayout
from depth_distill.quantization.target.target import load_target

VALUES = {
    "codec": describe_codec(HostSingle(DepthRange(0.5, 15.0), "inverse")),
    "outputs": {"names": ["codes"], "channels": [1], "logits": False},
    "artifacts": {"float": "model.float.onnx"},
    "input": {"shape": [1, 3, 4, 6], "mean": [0, 0, 0], "std": [1, 1, 1], "dtype": "uint8"},
}


def make(folder, content="network"):
    folder.mkdir()
    (folder / "model.float.onnx").write_text(content)
    write_manifest(folder, VALUES)
    return folder


def test_what_was_written_is_read(tmp_path):
    bundle = load_bundle(make(tmp_path / "bundle"))
    assert bundle.artifact("float").read_text() == "network"
    assert bundle.codec.encoding == "inverse"
    assert bundle.layout == OutputLayout(("codes",), (1,))
    assert (bundle.input.height, bundle.input.width, bundle.input.uint8) == (4, 6, True)
    with pytest.raises(ConfigError, match="no 'int8' artifact; it has float"):
        bundle.artifact("int8")


def test_a_changed_or_incomplete_bundle_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not a bundle"):
        load_bundle(tmp_path)
    folder = make(tmp_path / "bundle")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "model.float.onnx").write_text("another")
    with pytest.raises(ConfigError, match="was changed"):
        load_bundle(folder)
    (folder / "model.float.onnx").unlink()
    with pytest.raises(ConfigError, match="is missing"):
        load_bundle(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(ConfigError, match="schema_version is 99, expected 2"):
        load_bundle(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_bundle(folder)


@pytest.mark.parametrize("kind", ["int8", "metric"])
def test_only_the_float_file_stands_for_the_float_network(kind, tmp_path):
    folder = make(tmp_path / "bundle")
    other = folder / f"model.{kind}.onnx"
    other.write_text("other")
    write_manifest(folder, {**VALUES, "artifacts": {"float": "model.float.onnx", kind: other.name}})
    load_bundle(folder).require_float(folder / "model.float.onnx")
    message = f"is the {kind} file of its bundle, expected the float network: give .*model.float.onnx"
    with pytest.raises(ConfigError, match=message):
        Case(CaseOptions(network=other, images=tmp_path))
    options = PickOptions(other, tmp_path, 4)
    with pytest.raises(ConfigError, match=message):
        pick_calibration(options, load_target("per-tensor-minmax"), Console())


def test_a_file_knows_its_bundle(tmp_path):
    folder = make(tmp_path / "bundle")
    file = folder / "model.float.onnx"
    bundle = bundle_of(file)
    assert bundle.folder == folder
    assert bundle.artifact("float") == file
    assert bundle_of(tmp_path / "alone.onnx") is None
    assert bundle_of(folder / "another.onnx") is None  # in the folder, but not of the bundle
    manifest = folder / "manifest.json"
    written = manifest.read_text()
    for of_something_else in ('{"name": "app", "icons": []}', '["a", "b"]', '{"artifacts": ["model.float.onnx"]}'):
        manifest.write_text(of_something_else)
        assert bundle_of(file) is None
    file.write_text("swapped")
    manifest.write_text(written)
    with pytest.raises(ConfigError, match=r"model\.float\.onnx was changed since"):
        bundle_of(file)
    manifest.write_text('{"artifacts": {"float": "model.float.onnx"}, "schema_version": 99}')
    with pytest.raises(ConfigError, match="schema_version is 99, expected 2"):
        bundle_of(file)
    manifest.write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        bundle_of(file)


def test_a_new_bundle_takes_the_place_of_the_old_one(tmp_path):
    out = make(tmp_path / "bundle", "old")
    put_in_place(make(tmp_path / "new", "new"), out)
    assert load_bundle(out).artifact("float").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_one_that_was_killed_half_way_comes_back(tmp_path):
    out = make(tmp_path / "bundle", "old")
    out.rename(tmp_path / ".bundle.old")  # between the two renames
    recover(out)
    assert load_bundle(out).artifact("float").read_text() == "old"


def test_a_new_bundle_that_is_not_there_leaves_the_old_one(tmp_path):
    out = make(tmp_path / "bundle", "old")
    with pytest.raises(OSError, match="No such file"):
        put_in_place(tmp_path / "nothing", out)
    assert load_bundle(out).artifact("float").read_text() == "old"


@pytest.fixture
def old(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.float.onnx").write_bytes(b"weights")
    write_manifest(out, {"artifacts": {"float": "model.float.onnx"}})
    return out


def test_an_old_bundle_an_empty_folder_and_nothing_are_replaced(old, tmp_path):
    require_replaceable(old)
    (tmp_path / "empty").mkdir()
    require_replaceable(tmp_path / "empty")
    require_replaceable(tmp_path / "new")
    (old / "runners" / "__pycache__").mkdir(parents=True)
    (old / "runners" / "__pycache__" / "run.pyc").write_bytes(b"")  # left by running a bundle's own script
    require_replaceable(old)


def test_a_folder_with_the_manifest_of_something_else_is_left_alone(tmp_path):
    web = tmp_path / "web"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "my web app"}')
    (web / "index.html").write_text("precious")
    with pytest.raises(ConfigError, match="web exists and is not a bundle .* that of something else"):
        require_replaceable(web)


def test_files_of_the_user_inside_of_a_bundle_are_named(old):
    (old / "notes").mkdir()
    (old / "notes" / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match="holds files that are not the bundle's: notes/thesis.tex: choose another"):
        require_replaceable(old)


def test_a_link_and_a_file_are_not_replaced(old, tmp_path):
    (tmp_path / "link").symlink_to(old)
    with pytest.raises(ConfigError, match=r"link is a symbolic link to .*out: give that folder"):
        require_replaceable(tmp_path / "link")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file exists and is not a folder"):
        require_replaceable(tmp_path / "file")


@pytest.mark.parametrize("name", [".out.work", ".out.old"])
def test_hidden_folders_of_somebody_else_are_left_alone(name, old, tmp_path):
    (tmp_path / name).mkdir()
    require_replaceable(old)  # empty
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match=rf"{name} .*move it away"):
        require_replaceable(old)


def test_unfinished_work_goes_on(old):
    work_folder(old).mkdir()
    (work_folder(old) / "steps.json").write_text("{}")
    require_replaceable(old)


def with_table(folder, entry):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "decode_table": entry}))
    return folder


def test_integer_files_and_devices_are_decoded_through_the_table_and_float_files_are_not(tmp_path):
    folder = with_table(make(tmp_path / "bundle"), {"source": "RKNN PTQ", "backend": "rknn", "tables": [[0, 0.9, 1]]})
    bundle = load_bundle(folder)
    assert (bundle.table_source, bundle.table_backend) == ("RKNN PTQ", "rknn")
    codes = {"codes": np.float32([[[[0.25]]]])}
    plain, corrected = bundle.codec.decode(codes["codes"]), bundle.codec.decode(np.float32([[[[0.45]]]]))
    for kind in ("float", "fp16"):
        assert np.array_equal(bundle.decode(codes, kind), plain)
    for kind in ("int8", "mixed"):
        assert bundle.decode(codes, kind) == pytest.approx(corrected, rel=1e-6)
    old = load_bundle(make(tmp_path / "old"))
    assert (old.table, old.table_source) == (None, "")
    assert np.array_equal(old.decode(codes), plain)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"decode_table cannot be read"),
        ({"source": "a"}, r"decode_table has no 'tables'"),
        ({"tables": [[0, 1]]}, r"decode_table has no 'source'"),
        ({"source": 1, "tables": [[0, 1]]}, r"decode_table cannot be read \(source has no name\)"),
        ({"source": "a", "tables": 7}, r"decode_table cannot be read \(tables is no list of lists\)"),
        ({"source": "a", "tables": [[0, 1], [0, 1]]}, r"expected one decode table per code \(1\), received 2"),
        ({"source": "a", "tables": [[0, 0.5, 0.4, 1]]}, r"decode table 0 turns: 0.5 is followed by 0.4"),
        ({"source": "a", "tables": [[0, "x"]]}, r"decode table 0: expected a list of"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, entry, message):
    with pytest.raises(ConfigError, match=rf"manifest\.json: .*{message}.*: export again"):
        load_bundle(with_table(make(tmp_path / "bundle"), entry))
