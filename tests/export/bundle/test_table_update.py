"""A bundle that is given a table: what its manifest and its header say is of this table, and of this device."""

import onnx
import pytest
from matplotlib.figure import Figure
from onnx import helper

from depth_distill.export.bundle import table_update
from depth_distill.export.bundle.bundle import load_bundle
from depth_distill.export.bundle.decode_table import DecodeTable
from depth_distill.export.bundle.manifest import write_manifest
from depth_distill.export.bundle.table_update import update_table
from depth_distill.export.interface.decoders import IntegerCodes
from tests.export.bundle.test_bundle import VALUES

TABLE = DecodeTable("the device of npu", None, None, "helps", None, (tuple(k / 255 for k in range(256)),))


def save(path, opset):
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    folder = tmp_path / "bundle"
    folder.mkdir()
    names = {kind: f"model.{kind}.onnx" for kind in ("float", "int8", "metric_int8")}
    for name in names.values():
        save(folder / name, 13)
    rows = [{"artifact": kind, "abs_rel": 0.1, "with_table": {"abs_rel": 0.2}} for kind in ("int8", "metric_int8")]
    write_manifest(
        folder,
        {
            **VALUES,
            "artifacts": names,
            "opsets": dict.fromkeys(names, 13),
            "scales": {"codes": {"dtype": "uint8", "scale": 0.0039, "zero_point": 3}},
            "metrics": {"rows": rows},
        },
    )
    written = lambda int8, *_: save(int8.with_name("model.metric_int8.onnx"), 17) or ""  # noqa: E731
    monkeypatch.setattr(table_update, "write_metric_int8", written)
    return load_bundle(folder)


@pytest.mark.parametrize("integers", [None, IntegerCodes(0.25, -7, signed=True)])
def test_the_header_has_the_integers_of_the_device_or_none(bundle, integers):
    header = (update_table(bundle, TABLE, Figure(), integers).folder / "decode.h").read_text()
    assert ("dd_depth_m_of_code[256]" in header) == (integers is not None)
    assert ("#define DD_CODE_ZERO_POINT -7" in header) == (integers is not None)
    assert "#define DD_CODE_ZERO_POINT 3" not in header


def test_figures_of_the_old_table_are_gone_and_the_new_file_has_its_opset(bundle):
    manifest = update_table(bundle, TABLE, Figure()).manifest
    assert manifest["metrics"]["rows"] == [{"artifact": "int8", "abs_rel": 0.1, "with_table": None}]
    assert manifest["opsets"] == {"float": 13, "int8": 13, "metric_int8": 17}
