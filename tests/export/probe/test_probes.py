import dataclasses
import io

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console

from depth_distill.errors import ConfigError
from depth_distill.export.backends.backends import BackendRun, find_backend
from depth_distill.export.probe.judgement import Variant, judge, reference
from depth_distill.export.probe.models import capability_probes, float_conv
from depth_distill.export.probe.probes import Prober, ProbeResult, failure_reason
from depth_distill.export.probe.report import ProbeReport
from depth_distill.quantization.target.target import load_target

TARGET = load_target("per-tensor-minmax")
PROBES = {probe.name: probe for probe in capability_probes(TARGET)}
SIGNED = {probe.name: probe for probe in capability_probes(load_target("symmetric-pow2"))}
# ONNX's evaluator accumulates FP16 in FP16, NPUs in float32.
READINGS = {
    variant.model.SerializeToString(): variant.reading
    for probe in (*PROBES.values(), *SIGNED.values())
    for variant in probe.variants
    if variant.reading is not None and variant.title == ""
}
NAMES = [field.name for field in dataclasses.fields(TARGET.capabilities)]


@dataclasses.dataclass(frozen=True)
class Fake:
    """A tool chain that computes files correctly, unless ``habit`` changes the file or refuses it."""

    habit: object = staticmethod(lambda model: model)
    quantizes: bool = False
    ptq: object = None
    name: str = "fake"
    takes: frozenset = frozenset({"float", "int8"})
    simulator: bool = False

    def missing(self):
        return None

    def run(self, model, inputs, calibration=None, options=None, repeats=20):
        if calibration is None or not self.takes:
            file = self.habit(onnx.load(model))
            outputs = reference(READINGS.get(file.SerializeToString(), file), inputs)
        else:
            outputs = {"codes": self.ptq(np.concatenate([reference(float_conv(), x[None])["codes"] for x in inputs]))}
        return BackendRun(outputs, None, 0.0, "1.2", self.simulator, ())


def stored(model):
    return {each.name: each for each in model.graph.initializer}


def replace(model, name, value):
    stored(model)[name].CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def activation_formats(model):
    """Q and DQ nodes of activations, with scale and zero point."""
    values = stored(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in values:
            yield node, *(numpy_helper.to_array(values[name]) for name in node.input[1:3])


def ignore_zero_points(model):
    for node, _, zero_point in activation_formats(model):
        if node.op_type == "DequantizeLinear":
            replace(model, node.input[2], np.array(np.iinfo(zero_point.dtype).min, zero_point.dtype))
    return model


def round_symmetrically(model):
    for node, scale, zero_point in list(activation_formats(model)):
        limits = np.iinfo(zero_point.dtype)
        largest = max(limits.max - int(zero_point), int(zero_point) - limits.min)
        if largest > 150:  # a clearly lopsided range
            replace(model, node.input[1], np.float32(scale * largest / 127))
            replace(model, node.input[2], np.int8(0))
    return onnx.shape_inference.infer_shapes(without_types(model))


def without_types(model):
    del model.graph.value_info[:]
    return model


def one_weight_scale(model):
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            scale = numpy_helper.to_array(stored(model)[node.input[1]])
            if scale.ndim:
                replace(model, node.input[1], np.full_like(scale, scale.max()))
    return model


def narrow(model):
    """INT16 tensors computed in INT8."""
    for node, scale, zero_point in list(activation_formats(model)):
        if zero_point.dtype.itemsize == 2:
            replace(model, node.input[1], np.float32(scale * 256))
            replace(model, node.input[2], np.array(120, np.uint8))
    return without_types(model)


def in_float(model):
    names = {}
    for node, *_ in list(activation_formats(model)):
        names[node.output[0]] = names.get(node.input[0], node.input[0])
        model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    for output in model.graph.output:
        if output.name in names:
            model.graph.node.append(onnx.helper.make_node("Identity", [names[output.name]], [output.name]))
    return without_types(model)


def swap_outputs(model):
    names = {"first": "second", "second": "first"}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
    return without_types(model)


def refusing(condition, words="E load: Error: out of luck"):
    def habit(model):
        if condition(model):
            raise ConfigError(f"backend fake failed on /tmp/x/probe.onnx (exit code 1). Its last output:\n{words}")
        return model

    return habit


def opset(model):
    return next(each.version for each in model.opset_import if each.domain == "")


def verdicts(backend, probes=PROBES):
    prober = Prober(backend)
    return {name: prober.capability(probe) for name, probe in probes.items()}


def installed(name):
    backend = find_backend(name)
    if backend.missing():
        pytest.skip(backend.missing())
    return backend


def test_a_file_is_no_newer_than_its_opset():
    # From ONNX's table of releases: runtimes refuse an IR version that is newer than they are.
    assert [float_conv(each).ir_version for each in (13, 16, 17, 19, 21)] == [7, 8, 8, 9, 10]
    (contributed,) = (each.model for each in PROBES["int16"].variants if each.title == "com.microsoft Q/DQ")
    versions = {each.domain: each.version for each in contributed.opset_import}
    assert (contributed.ir_version, versions) == (9, {"": 19, "com.microsoft": 1})


def test_there_is_a_probe_for_each_capability():
    assert list(PROBES) == NAMES


@pytest.mark.parametrize("probes", [PROBES, SIGNED], ids=["unsigned", "signed"])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_readings_are_far_from_the_correct_result(name, probes):
    probe = probes[name]
    for variant in probe.variants:
        truth = reference(variant.reading or variant.model, probe.inputs)
        assert variant.wrong_readings
        for wrong_reading in variant.wrong_readings:
            found = reference(wrong_reading.model, probe.inputs)
            verdict, reason = judge(variant, found, truth, [found])
            assert verdict != "confirmed"
            off = max(float(np.abs(found[key] - truth[key]).max()) for key in truth) / variant.step
            assert off > 8 * variant.tolerance, (wrong_reading.title, reason)


@pytest.mark.parametrize("probes", [PROBES, SIGNED], ids=["unsigned", "signed"])
def test_a_tool_chain_that_computes_files_correctly_is_confirmed(probes):
    found = verdicts(Fake(), probes)
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(NAMES, "confirmed")
    assert "off by 0 output steps, at most 1; 59" in found["int8"].reason
    assert "simulator" not in found["int8"].reason
    assert verdicts(Fake(simulator=True))["int8"].reason.endswith("in a simulator")


@pytest.mark.parametrize(
    ("habit", "name", "verdict", "words"),
    [
        (ignore_zero_points, "asymmetric_activations", "unsupported", "accepted, but all zero points ignored: 0 steps"),
        (round_symmetrically, "asymmetric_activations", "unsupported", "accepted, but rounded symmetrically: 0 steps"),
        (one_weight_scale, "per_channel_weights", "unsupported", "the last scale taken for all channels: 0 steps"),
        (narrow, "int16", "unsupported", "uint16, opset 21: accepted, but computed in INT8"),
        (in_float, "int16", "unconfirmed", "accepted, but computed in float32: 0 steps from that, 17.8 from"),
        (in_float, "int8", "unsupported", "accepted, but computed in float32: 0 steps from that, 59.7 from"),
        (swap_outputs, "several_outputs", "unsupported", "accepted, but outputs swapped"),
    ],
)
def test_a_capability_that_is_accepted_but_not_honoured_is_not_confirmed(habit, name, verdict, words):
    found = verdicts(Fake(habit))
    assert found[name].verdict == verdict
    assert words in found[name].reason


@pytest.mark.parametrize("name", ["fp16", "per_layer_precision"])
def test_a_wider_type_for_fp16_proves_nothing(name):
    prober = Prober(installed("onnxruntime"))  # takes Casts to FP16 out on the CPU
    found = prober.capability(PROBES[name])
    assert found.verdict == "unconfirmed"
    assert "computed in float32: 0 steps from that" in found.reason


def test_fp16_in_int8_is_unsupported():
    variant = PROBES["per_layer_precision"].variants[0]
    truth = reference(variant.reading, PROBES["per_layer_precision"].inputs)
    wrong_readings = [reference(each.model, PROBES["per_layer_precision"].inputs) for each in variant.wrong_readings]
    verdict, reason = judge(variant, wrong_readings[0], truth, wrong_readings)
    assert (verdict, reason.partition(":")[0]) == ("unsupported", "accepted, but its FP16 layer computed in INT8")


def test_unexplained_errors_are_unconfirmed():
    variant = Variant("", float_conv(), 0.5)
    truth, wrong_reading = {"codes": np.zeros(4, np.float32)}, {"codes": np.full(4, 50, np.float32)}
    assert judge(variant, {"codes": np.full(4, 0.5, np.float32)}, truth, [])[0] == "confirmed"
    assert judge(variant, {"codes": np.full(4, 0.6, np.float32)}, truth, [])[0] == "unconfirmed"
    off = dataclasses.replace(variant, wrong_readings=PROBES["int8"].variants[0].wrong_readings)
    verdict, reason = judge(off, {"codes": np.full(4, 20, np.float32)}, truth, [wrong_reading])
    assert (verdict, reason) == ("unconfirmed", "runs, but is off by 40 output steps, at most 1")
    assert judge(off, {"codes": np.full(4, np.nan)}, truth, [wrong_reading])[0] == "unconfirmed"
    assert (
        judge(off, {"other": truth["codes"]}, truth, [wrong_reading])[1] == "returns nothing for codes, expected (4,)"
    )


def test_each_output_has_a_step_of_its_own():
    truth = {
        "large": np.full(100, 1000, np.float32),
        "small": np.full(100, 1, np.float32),
        "index": np.arange(100) + 5000,
    }

    def verdict(name, change, tolerance=0.02):
        found = {key: value.copy() for key, value in truth.items()}
        change(found[name])
        return judge(Variant("", float_conv(), None, "", tolerance), found, truth, [])[0]

    def add(value, count=100):
        def change(values):
            values[:count] += value

        return change

    # 2 % of 1000, of 1, and 2 of 100 elements, by however much they are off.
    assert [verdict("large", add(each)) for each in (19, 21)] == ["confirmed", "unconfirmed"]
    assert [verdict("small", add(each)) for each in (0.019, 0.021)] == ["confirmed", "unconfirmed"]
    assert [verdict("index", add(900, each)) for each in (2, 3)] == ["confirmed", "unconfirmed"]


def test_a_refusal_is_unsupported_with_the_tool_chains_reason():
    per_channel = refusing(lambda model: any(each.dims == [4] for each in model.graph.initializer))
    found = verdicts(Fake(per_channel))
    assert found["per_channel_weights"] == ProbeResult(
        "per_channel_weights", "unsupported", "E load: Error: out of luck"
    )
    assert found["int8"].verdict == "confirmed"


def test_a_refusal_of_the_form_proves_nothing_about_the_capability():
    new = refusing(lambda model: opset(model) > 19, "ValueError: opset 21, need <= 19")
    found = verdicts(Fake(new))["int16"]
    assert found.verdict == "confirmed"  # by Q/DQ of com.microsoft
    assert found.reason.startswith("com.microsoft Q/DQ: off by 0")
    assert "a float convolution of opset 21 is refused, too): ValueError: opset 21, need <= 19" in found.reason
    neither = refusing(lambda model: opset(model) > 19 or any(node.domain for node in model.graph.node))
    found = verdicts(Fake(neither))["int16"]
    assert found.verdict == "unconfirmed"
    assert "INT8 in com.microsoft Q/DQ is refused, too" in found.reason


def test_a_tool_chain_that_runs_nothing_is_an_error():
    with pytest.raises(ConfigError, match="fake does not run a plain float convolution.*out of luck"):
        Prober(Fake(refusing(lambda model: True)))


def test_own_ptq():
    def rounded(codes, levels=200):
        step = (codes.max() - codes.min()) / levels
        return np.rint(codes / step) * step

    def finding(ptq):
        return Prober(Fake(quantizes=True, ptq=ptq)).own_ptq()

    assert finding(rounded).verdict == "confirmed"
    assert finding(lambda codes: codes).reason == (
        "accepted, but its output has 1152 distinct values, more than the 256 of INT8"
    )
    assert finding(lambda codes: codes).verdict == "unsupported"
    assert finding(lambda codes: rounded(codes, 16)).verdict == "unconfirmed"
    assert Prober(Fake()).own_ptq().verdict == "unsupported"
    assert Prober(installed("onnxruntime")).own_ptq().verdict == "confirmed"


def test_a_backend_that_takes_float_files_only():
    backend = Fake(takes=frozenset(), quantizes=True)
    assert Prober(backend).capability(PROBES["int8"]).verdict == "unconfirmed"


def test_failure_reason():
    head = "backend rknn failed on /tmp/a/probe.onnx (exit code {}). Its last output:\n"
    noise = "\nNeed more information? Set SAVE=/some/dir to save all"
    assert failure_reason(head.format(1) + "/tmp/b/model.mlir:15: error: no legal op" + noise) == (
        "model.mlir:15: error: no legal op"
    )
    assert failure_reason(head.format(-6) + "corrupted double-linked list") == (
        "aborts with signal 6: corrupted double-linked list"
    )
    assert len(failure_reason(head.format(1) + "Error: " + "x" * 500)) == 150


def test_the_report_shows_where_profile_and_tool_chain_disagree():
    results = (
        ProbeResult("int8", "unsupported", "Error"),
        ProbeResult("int16", "confirmed", ""),
        ProbeResult("fp16", "unconfirmed", ""),
        ProbeResult("per_channel_weights", "confirmed", ""),
        ProbeResult("Conv 1", "confirmed", "", "Conv"),
        ProbeResult("Conv 2", "unsupported", "", "Conv"),
        ProbeResult("Relu", "unsupported", "", "Relu"),
    )
    report = ProbeReport(TARGET, "fake 1", results)
    assert [each.name for each in report.overstated] == ["int8", "Conv 2", "Relu"]
    assert [each.name for each in report.understated] == ["per_channel_weights"]
    assert report.capabilities() == {"int8": "no", "int16": "yes", "per_channel_weights": "yes"}
    assert report.forbidden() == ["Relu"]  # one Conv works, so Conv is not forbidden
    assert "per channel weights: the profile rules it out, but it works" in report.disagreements()


def test_messages_of_tool_chains_are_not_parsed_as_markup():
    words = "failed to legalize [/conv_3] in model.mlir:100: [bold]no[/bold] \\"
    report = ProbeReport(TARGET, "fake 1 [/x]", (ProbeResult("Conv [/1]", "unsupported", words, "Conv"),))
    with io.StringIO() as file:
        Console(file=file, width=200).print(report.table())
        text = file.getvalue()
    assert words in text
    assert "fake 1 [/x] probed for" in text
    assert "Conv [/1]" in text


REAL = {
    "onnxruntime": {"fp16": "unconfirmed", "per_layer_precision": "unconfirmed"},
    "openvino": {"int16": "unconfirmed", "fp16": "unconfirmed", "per_layer_precision": "unconfirmed"},
    "qnn": {},
    "rknn": {"int16": "unconfirmed", "fp16": "unconfirmed"},
    "iree": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_tool_chains(name):
    prober = Prober(installed(name))
    found = {key: prober.capability(probe) for key, probe in PROBES.items()}
    expected = {**dict.fromkeys(NAMES, "confirmed"), **REAL[name]}
    assert {key: each.verdict for key, each in found.items()} == expected, [each.reason for each in found.values()]
    assert prober.own_ptq().verdict == ("confirmed" if prober.backend.quantizes else "unsupported")
    assert prober.version
