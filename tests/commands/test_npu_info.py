"""depth-distill npu-info --probe; its checks are tested with depth-distill export."""

import dataclasses
import datetime

import onnx
import pytest

from depth_distill.cli import main
from depth_distill.commands.capabilities import capability_table
from depth_distill.export.backends import backends
from depth_distill.quantization.target.target import load_target
from tests.export.probe.test_probes import Fake, one_weight_scale, refusing

NETWORK = """
    <ir_version: 9, opset_import: ["": 19]>
    probe (float[1, 4, 4, 6] image) => (float[1, 4, 4, 6] codes)
    { r = Relu(image)  codes = Softmax<axis = 1>(r) }
"""


@pytest.fixture
def network(tmp_path):
    onnx.save(onnx.parser.parse_model(NETWORK), tmp_path / "network.onnx")
    return tmp_path / "network.onnx"


@pytest.fixture
def fake(monkeypatch):
    """Puts a tool chain with some habit in the place of ONNX Runtime's."""

    def put(habit=lambda model: model):
        monkeypatch.setattr(backends, "BACKENDS", {"onnxruntime": Fake(habit, name="onnxruntime")})

    return put


def run(target, *words):
    return main(["npu-info", "--target", str(target), "--probe", "onnxruntime", *map(str, words)])


def test_a_tool_chain_that_keeps_the_profiles_promises(fake, network, tmp_path, capsys):
    fake()
    path = tmp_path / "mine.yaml"
    assert run("per-channel", "--onnx", network, "--write-profile", path) == 0
    text = capsys.readouterr().out
    assert "onnxruntime 1.2 probed for per-channel" in text
    assert "17 confirmed, 1 unsupported, 0 unconfirmed" in text  # own PTQ, on which this profile does not count
    assert f"{path}: capabilities.int16: unconfirmed -> yes" in text
    assert f'  int16: "yes"  # probed: onnxruntime 1.2, {datetime.date.today()}\n' in path.read_text()
    found, before = load_target(path).to_dict(), load_target("per-channel").to_dict()
    changed = {key for key in before if found[key] != before[key]}
    assert changed == {"name", "capabilities"}


def test_what_the_profile_counts_on_and_is_refused(fake, network, tmp_path, capsys):
    fake(refusing(lambda model: any(node.op_type == "Softmax" for node in model.graph.node)))
    path = tmp_path / "mine.yaml"
    assert run("per-channel", "--onnx", network, "--write-profile", path) == 1
    text = capsys.readouterr().out
    assert "Softmax axis 1, 1x4x4x6: the profile claims it, but it is unsupported" in text
    assert load_target(path).operators.forbidden == ("Softmax",)
    assert "operators: {forbidden: [Softmax]}  # probed: onnxruntime 1.2" in path.read_text()
    # With that profile, nobody is surprised.
    assert run(path, "--onnx", network) == 0


def test_names_of_a_file_are_no_markup(fake, tmp_path, capsys):
    model = onnx.parser.parse_model(NETWORK)
    model.graph.node[1].domain = "[/mine]"
    model.opset_import.append(onnx.helper.make_opsetid("[/mine]", 1))
    onnx.save(model, tmp_path / "odd.onnx")
    fake(refusing(lambda model: any(each.op_type == "Relu" for each in model.graph.node), "E Error: [/relu] :100: x"))
    assert run("per-channel", "--onnx", tmp_path / "odd.onnx") == 1
    text, progress = capsys.readouterr()
    assert "onnxruntime: [/mine].Softmax axis 1, 1x4x4x6" in progress
    assert "E Error: [/relu] :100: x" in text


def test_what_is_accepted_but_not_honoured(fake, tmp_path, capsys):
    fake(one_weight_scale)
    assert run("onnxruntime-cpu", "--write-profile", tmp_path / "mine.yaml") == 1
    assert "per channel weights: the profile claims it, but it is unsupported" in capsys.readouterr().out
    assert load_target(tmp_path / "mine.yaml").capabilities.per_channel_weights == "no"
    # The other profile's weights need it: that contradicts itself, and is not written.
    assert run("per-channel", "--write-profile", tmp_path / "other.yaml") == 2
    assert "was not written, because the results contradict the rest of the profile" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "other.yaml").exists()


def test_onnx_runtime_itself(capsys):
    assert run("onnxruntime-cpu") == 0
    assert "computed in float32" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--probe", "openvin"], "did you mean 'openvino'?"),
        (["--probe", "onnxruntime", "--onnx", "none.onnx"], "none.onnx"),
        (["--probe", "onnxruntime", "--strict"], "--probe goes with --target, --onnx and --write-profile only"),
        (["--onnx", "model.onnx"], "--onnx needs --probe BACKEND"),
        (["--write-profile", "mine.yaml"], "--write-profile needs --probe BACKEND"),
        (["--probe", "onnxruntime", "--write-profile", "mine.txt"], "a profile must be a .yaml file"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert main(["npu-info", "--target", "per-channel", *words]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith("error: ")
    assert message in error


def test_a_built_in_profile_is_not_overwritten(capsys):
    source = load_target("per-channel").source
    before = source.read_bytes()
    assert run("per-channel", "--write-profile", source) == 2
    assert "is a built-in profile" in " ".join(capsys.readouterr().err.split())
    assert source.read_bytes() == before


def test_a_missing_tool_chain_names_the_cure(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DEPTH_DISTILL_BACKENDS", str(tmp_path))
    assert main(["npu-info", "--target", "per-channel", "--probe", "rknn"]) == 2
    assert "run `make backends`" in " ".join(capsys.readouterr().err.split())


def test_a_target_without_a_file_has_no_lines():
    target = dataclasses.replace(load_target("per-channel"), source=None)
    assert [column.header for column in capability_table(target).columns][-1] == "line of the profile"
    assert set(capability_table(target).columns[2].cells) == {"-"}
