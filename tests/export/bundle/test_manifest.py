"""A manifest is read as a whole: whatever is damaged in it is named, and nothing outside of the bundle is read."""

import json

import pytest

from depth_distill.errors import ConfigError
from depth_distill.export.bundle.bundle import load_bundle
from depth_distill.export.bundle.manifest import MANIFEST
from depth_distill.hashes import sha256
from tests.export.bundle.test_bundle import make


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "bundle")


def refusal(folder, **entries):
    content = {**json.loads((folder / MANIFEST).read_text()), **entries}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ConfigError) as error:
        load_bundle(folder)
    assert str(folder / MANIFEST) in str(error.value)
    return str(error.value).partition(f"{MANIFEST}: ")[2]


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/hostname", "link.onnx"])
def test_no_file_outside_of_the_bundle_is_read(folder, name):
    outside = folder.parent / "outside.onnx"
    outside.write_text("network")
    (folder / "link.onnx").symlink_to(outside)
    files = {name: {"sha256": sha256(outside), "bytes": 7}}
    assert f"{name} lies outside of the bundle" in refusal(folder, files=files, artifacts={"float": name})


def test_an_artifact_is_one_of_the_files_with_a_hash(folder):
    assert "artifacts: float is '../x.onnx', which is none of its files" in refusal(
        folder, artifacts={"float": "../x.onnx"}
    )
    assert "artifacts: float is 3" in refusal(folder, artifacts={"float": 3})
    assert "files: model.float.onnx has no sha256" in refusal(folder, files={"model.float.onnx": {"bytes": 3}})


def test_the_resize_is_that_of_the_manifest_and_stretch_where_it_is_older_than_the_choice(folder):
    content = json.loads((folder / MANIFEST).read_text())
    size = {"height": 4, "width": 6}
    for entry, expected in (
        ({"resize": {**size, "mode": "pad"}}, "pad"),
        ({"resize": size}, "stretch"),
        ({}, "stretch"),
    ):
        image = {key: value for key, value in content["input"].items() if key != "resize"}
        (folder / MANIFEST).write_text(json.dumps({**content, "input": {**image, **entry}}))
        assert load_bundle(folder).input.resize == expected
    wrong = {**content["input"], "resize": {**size, "mode": "squash"}}
    assert "resize.mode: received 'squash', expected one of crop, pad, stretch" in refusal(folder, input=wrong)


@pytest.mark.parametrize("key", ["files", "artifacts", "codec", "input", "outputs"])
@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_each_entry_is_keys_and_values(folder, key, value):
    assert refusal(folder, **{key: value}).startswith(f"{key} is {value!r}, expected keys and values")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("codec", {}, "codec cannot be read (codec.kind must be one of"),
        ("codec", {"kind": "single"}, "needs min_depth_m"),
        ("input", {}, "input has no 'shape'"),
        ("input", {"shape": [1, 3]}, "input cannot be read"),
        ("input", {"shape": [1, 3, 4, 6], "mean": [0], "std": [1], "dtype": "uint8"}, "one finite number per colour"),
        ("input", {"shape": [1, 3, -4, 6], "mean": [0] * 3, "std": [1] * 3, "dtype": "uint8"}, "a shape of [1, 3, -4"),
        ("outputs", {"names": ["codes"]}, "outputs has no 'channels'"),
        ("outputs", {"names": ["codes"], "channels": [], "logits": False}, "1 names and 0 numbers of channels"),
        ("outputs", {"names": ["x\n*/"], "channels": [1], "logits": False}, "no decoder is written with"),
    ],
)
def test_what_the_network_takes_and_returns_is_whole(folder, key, value, reason):
    assert reason in refusal(folder, **{key: value})


def test_numbers_that_are_none_and_deep_nesting_are_no_json(folder):
    for text in ('{"schema_version": NaN}', "[" * 100_000, b"\xff\xfe{".decode("utf-16", "replace")):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(ConfigError, match="is not valid JSON"):
            load_bundle(folder)
