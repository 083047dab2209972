"""Dumps of a device: the values of the layer, for any type, layout and file format."""

import numpy as np
import pytest

from depth_distill.errors import DataError
from depth_distill.export.compare.dumps import DumpFolder, dump_names
from depth_distill.export.onnx_io.layers import OnnxLayer
from depth_distill.export.onnx_io.quant_params import QuantParams

SHAPE = (1, 3, 4, 5)
QUANT_PARAMS = QuantParams(0.5, 7, "uint8")
ROUNDED = OnnxLayer("decoder.blocks.0", "Conv", "a", "b", QUANT_PARAMS, None)
FLOAT = OnnxLayer("head/conv", "Conv", "c", "c", None, None)


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture
def expected(codes):
    return (codes.astype(np.float32) - 7) * 0.5


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "0000").mkdir()
    return tmp_path


def read(folder, layer=ROUNDED, **how):
    return DumpFolder(folder, [ROUNDED, FLOAT], **how).read(0, layer, SHAPE)


def test_numpy_files_store_their_own_type(folder, codes, expected):
    path = folder / "0000/decoder.blocks.0.npy"
    for values in (expected, expected.astype(np.float16), codes, (codes.astype(np.int16) - 128).astype(np.int8)):
        np.save(path, values)
        found = read(folder)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    assert read(folder, FLOAT) is None


@pytest.mark.parametrize("suffix", ["raw", "bin"])
def test_headerless_files_are_of_the_given_type(folder, codes, expected, suffix):
    path = folder / f"0000/decoder_blocks_0.{suffix}"  # as QNN writes names
    path.write_bytes(expected.astype("<f4").tobytes())
    np.testing.assert_array_equal(read(folder), expected)
    path.write_bytes(codes.tobytes())
    np.testing.assert_array_equal(read(folder, dtype="uint8"), expected)
    with pytest.raises(
        DataError, match=r"has 60 bytes, expected 240 \(60 values of float32\): 1 per value; .*--dump-dtype"
    ):
        read(folder)
    path.write_bytes(codes.tobytes()[:50])
    with pytest.raises(DataError, match=r"has 50 bytes, expected 60 .*dump the whole tensor"):
        read(folder, dtype="uint8")


def test_channels_may_be_last(folder, expected):
    last = np.moveaxis(expected, 1, -1)
    np.save(folder / "0000/decoder.blocks.0.npy", last)
    np.testing.assert_array_equal(read(folder, layout="nhwc"), expected)
    np.save(folder / "0000/decoder.blocks.0.npy", last[0])  # without the batch
    np.testing.assert_array_equal(read(folder, layout="nhwc"), expected)
    with pytest.raises(DataError, match=r"the shape \(4, 5, 3\), expected \(1, 3, 4, 5\) \(nchw; see --dump-layout\)"):
        read(folder)


def test_what_cannot_be_read_is_named(folder, codes):
    with pytest.raises(DataError, match=r"has no .npy, .raw, .bin file of any layer"):
        read(folder)
    path = folder / "0000/head_conv.npy"
    np.save(path, codes)
    with pytest.raises(DataError, match="uint8 codes, but head/conv has no scale in the file: dump floats"):
        read(folder, FLOAT)
    path.write_bytes(b"\x93NUMPY cut")
    with pytest.raises(DataError, match="cannot be read as a NumPy array"):
        read(folder, FLOAT)
    np.savez(folder / "both.npz", a=codes, b=codes)
    (folder / "both.npz").rename(path)
    with pytest.raises(DataError, match=r"head_conv\.npy"):
        read(folder, FLOAT)
    (folder / "0000/head_conv.raw").write_bytes(b"")
    with pytest.raises(DataError, match=r"head_conv.raw and .*head_conv.npy belong to the same layer, head/conv"):
        read(folder, FLOAT)
    (folder / "0000/head_conv.raw").unlink()
    path.rename(folder / "0000/decoder.block.0.npy")
    with pytest.raises(DataError, match=r"belongs to no layer of the file; .*decoder\.blocks\.0"):
        read(folder)
    with pytest.raises(DataError, match="has no folder 0000, 0001 and so on"):
        DumpFolder(folder / "0000", [FLOAT])


def test_no_name_of_a_layer_leads_out_of_the_folder(folder, expected):
    layers = [OnnxLayer(name, "Conv", "c", "c", None, None) for name in ("/abs/conv", "../../up", "plain.0", "a b")]
    files = dump_names([each.name for each in layers])
    assert list(files.values()) == ["_abs_conv", ".._.._up", "plain.0", "a_b"]
    for name in files.values():
        np.save(folder / "0000" / f"{name}.npy", expected)
    dumps = DumpFolder(folder, layers)
    assert all(np.array_equal(dumps.read(0, each, SHAPE), expected) for each in layers)
    with pytest.raises(DataError, match="'a/b' and 'a_b' would have the same file"):
        dump_names(["a/b", "a_b"])
