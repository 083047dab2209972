"""decode.py and decode.h: the bits of the codec, for every codec and layout, and files that stand alone."""

import ctypes
import importlib.util
import itertools
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from depth_distill.codecs import DepthRange, HostIntegerFractional, HostPair, HostSingle, HostTable, HostThermometer
from depth_distill.codecs.arithmetic import named, power, sigmoid
from depth_distill.errors import ConfigError
from depth_distill.export.interface.decoders import IntegerCodes, write_decoders
from depth_distill.quantization.interface import OutputLayout, output_layout

RANGE = DepthRange(0.5, 15.0)


def rising(entries, seed=0):
    return np.sort(np.random.default_rng(seed).random(entries)).tolist()


CODECS = [
    *(
        HostSingle(each, encoding)
        for each in (RANGE, DepthRange(0.3, 80.7))
        for encoding in ("linear", "inverse", "log")
    ),
    *(
        HostThermometer(RANGE, encoding, num_codes, spacing)
        for encoding, num_codes, spacing in itertools.product(("linear", "log"), (2, 8, 16), ("uniform", "logit"))
    ),
    HostThermometer(RANGE, "inverse", 4, "logit"),
    *HostIntegerFractional(RANGE, "sum", "floor").decoders,
    *HostIntegerFractional(RANGE, "round", "floor", "triangle").decoders,
    HostIntegerFractional(RANGE),
    HostIntegerFractional(DepthRange(0.3, 80.7), fraction="triangle"),
    HostPair(RANGE, "inverse", 15),
    HostPair(RANGE, "log", spacing="logit"),
    HostPair(RANGE, "linear", spacing="metres"),
    HostTable(HostPair(RANGE, "log", spacing="logit"), [rising(16), rising(256)]),
    HostTable(HostSingle(RANGE, "inverse"), [rising(256)]),
    HostTable(HostThermometer(RANGE, "log", 4, "logit"), [rising(256, seed) for seed in range(4)]),
    HostTable(HostIntegerFractional(RANGE), [rising(256), rising(17)]),
]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-ffp-contract=off", "-shared", "-fPIC")
C_FILE = """
#include "decode.h"
void decode(const float *const *planes, size_t pixels, float *depth_m) { dd_decode(planes, pixels, depth_m); }
float decode_pixel(const float *codes) { return dd_decode_pixel(codes); }
float dequantize_u8(uint8_t code, float scale, int32_t zero_point) { return dd_dequantize_u8(code, scale, zero_point); }
float dequantize_i8(int8_t code, float scale, int32_t zero_point) { return dd_dequantize_i8(code, scale, zero_point); }
static const char *const names[DD_OUTPUTS] = DD_OUTPUT_NAMES;
static const int channels[DD_OUTPUTS] = DD_OUTPUT_CHANNELS;
const char *name(int k) { return names[k]; }
int channel_count(int k) { return channels[k]; }
float near_m(void) { return DD_MIN_DEPTH_M; }
float far_m(void) { return DD_MAX_DEPTH_M; }
int has_logits(void) { return DD_LOGITS; }
"""


def script_of(folder):
    """decode.py as a module."""
    spec = importlib.util.spec_from_file_location("decode_of_bundle", folder / "decode.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def library_of(folder, *flags):
    """decode.h, compiled."""
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc or clang) on the path")
    (folder / "decode.c").write_text(C_FILE)
    subprocess.run([COMPILER, *FLAGS, *flags, "decode.c", "-o", "decode.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "decode.so"))
    library.near_m.restype = library.far_m.restype = library.decode_pixel.restype = ctypes.c_float
    library.name.restype = ctypes.c_char_p
    for function, integer in ((library.dequantize_u8, ctypes.c_uint8), (library.dequantize_i8, ctypes.c_int8)):
        function.restype, function.argtypes = ctypes.c_float, (integer, ctypes.c_float, ctypes.c_int32)
    return library


def decoded_in_c(library, planes):
    """``(1, 1, N)`` metres of ``(C, 1, N)``."""
    planes = np.ascontiguousarray(planes)
    depth_m = np.full((1, 1, planes.shape[-1]), -1, np.float32)
    pointers = (ctypes.c_void_p * len(planes))(*(plane.ctypes.data for plane in planes))
    library.decode(pointers, ctypes.c_size_t(planes.shape[-1]), ctypes.c_void_p(depth_m.ctypes.data))
    return depth_m


def codes_for(codec):
    """``(C, 1, N)``: all of 8 bits (shuffled against each other), encoded depths, any float, the ends and beyond."""
    generator = np.random.default_rng(0)
    of_8_bits = (np.arange(256) / 255).astype(np.float32)
    special = np.float32([0, 1, -0.0, -1, 2, np.inf, -np.inf, 0.5, np.nextafter(np.float32(1), np.float32(0)), 1e-30])
    rows = [
        np.concatenate(
            [
                of_8_bits
                if codec.channels == 1
                else np.concatenate([generator.permutation(of_8_bits) for _ in range(40)]),
                generator.random(100_000, dtype=np.float32),
                special,
                generator.choice(special, 1000),
                generator.permutation(generator.normal(size=2000)).astype(np.float32),
            ]
        )
        for _ in range(codec.channels)
    ]
    depth_m = np.linspace(0.2, 1.01 * codec.far_m, 50_001, dtype=np.float32).reshape(1, 1, -1)
    codes = codec.encode(depth_m)
    steps = np.rint(codes * 255) / np.float32(255)
    return np.concatenate([np.stack(rows)[:, None], codes, steps], axis=-1)


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    different = np.flatnonzero(found.view(np.uint32) != expected.view(np.uint32))
    assert not len(different), f"{found.ravel()[different[:5]]} instead of {expected.ravel()[different[:5]]}"


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec}, {codec.depth_range}")
def test_both_give_the_bits_of_the_codec(codec, tmp_path):
    layout = output_layout(codec)
    assert write_decoders(codec, layout, tmp_path) == (tmp_path / "decode.py", tmp_path / "decode.h")
    codes = codes_for(codec)
    expected = codec.decode(codes)
    script = script_of(tmp_path)
    assert_same_bits(script.decode(codes), expected)
    assert (
        pytest.approx(codec.depth_range.min_m), pytest.approx(codec.depth_range.max_m), codec.channels,
    ) == (script.MIN_DEPTH_M, script.MAX_DEPTH_M, script.CODES)  # fmt: skip
    for flags in (("-O0",), ("-O3", "-march=native")):  # the second has fused multiply-adds to be tempted by
        library = library_of(tmp_path, *flags)
        assert_same_bits(decoded_in_c(library, codes), expected)
        (tmp_path / "decode.so").unlink()
    one = np.ascontiguousarray(codes[:, 0, 7])
    assert np.float32(library.decode_pixel(ctypes.c_void_p(one.ctypes.data))) == expected[0, 0, 7]
    assert [library.name(k).decode() for k in range(len(layout.names))] == list(layout.names)
    assert [library.channel_count(k) for k in range(len(layout.names))] == list(layout.channels)
    assert (library.near_m(), library.far_m(), library.has_logits()) == (codec.near_m, codec.far_m, 0)


class Quadratic(HostSingle):
    """A codec that no other file knows: what a new one has to say about decoding."""

    def depth_of(self, xp, codes):
        square = named(xp, "square", codes[0] * codes[0], "of the code")
        return sigmoid(xp, square) * power(xp, 2.5, codes[0])

    def encode_with(self, xp, depth_m):
        return xp.clip(depth_m / 15, 0.0, 1.0)


def test_a_new_codec_needs_nothing_here(tmp_path):
    codec = Quadratic(DepthRange(0.1, 15.0))
    write_decoders(codec, output_layout(codec), tmp_path)
    codes = codes_for(codec)
    assert_same_bits(script_of(tmp_path).decode(codes), codec.decode(codes))
    assert_same_bits(decoded_in_c(library_of(tmp_path, "-O2"), codes), codec.decode(codes))
    assert "    square = code * code  # of the code\n" in (tmp_path / "decode.py").read_text()
    assert "    const float square = code * code; /* of the code */\n" in (tmp_path / "decode.h").read_text()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec}, {codec.depth_range}")
def test_a_code_that_is_nan_stays_visible(codec, tmp_path):
    write_decoders(codec, output_layout(codec), tmp_path)
    codes = np.full((codec.channels, 1, codec.channels + 1), 0.3, np.float32)
    for k in range(codec.channels):
        codes[k, 0, k] = np.nan
    expected = np.isnan(codec.decode(codes)).tolist()
    assert expected[0][0] == [True] * codec.channels + [False]
    assert np.isnan(script_of(tmp_path).decode(codes)).tolist() == expected
    assert np.isnan(decoded_in_c(library_of(tmp_path), codes)).tolist() == expected


@pytest.mark.parametrize(
    "codec", [HostSingle(RANGE), HostThermometer(RANGE, "linear"), HostIntegerFractional(RANGE)], ids=str
)
@pytest.mark.parametrize("separate", [True, False])
def test_logits_go_through_the_sigmoid_of_the_layout(codec, separate, tmp_path):
    layout = output_layout(codec, separate, logits=True)
    write_decoders(codec, layout, tmp_path)
    generator = np.random.default_rng(0)
    planes = (8 * generator.normal(size=(codec.channels, 1, 50_000))).astype(np.float32)
    planes[:, 0, :6] = [0, -0.0, 40, -40, np.inf, -np.inf]
    starts = np.cumsum([0, *layout.channels])
    outputs = {
        name: planes[None, start:end] for name, start, end in zip(layout.names, starts, starts[1:], strict=False)
    }
    codes = layout.codes({name: torch.from_numpy(each) for name, each in outputs.items()}).numpy()
    script = script_of(tmp_path)
    assert_same_bits(script.codes_of(outputs), codes)
    assert_same_bits(script.decode(script.codes_of(outputs)), codec.decode(codes))
    library = library_of(tmp_path, "-O2")
    assert_same_bits(decoded_in_c(library, planes), codec.decode(codes)[0])
    assert library.has_logits() == 1


def test_integers_of_a_runtime_are_dequantized(tmp_path):
    codec = HostIntegerFractional(RANGE)
    write_decoders(codec, output_layout(codec), tmp_path)
    script, library = script_of(tmp_path), library_of(tmp_path)
    scale = np.float32(1 / 255)
    for integers, zero_point, in_c in (
        (np.arange(256, dtype=np.uint8), 3, library.dequantize_u8),
        (np.arange(-128, 128).astype(np.int8), -128, library.dequantize_i8),
    ):
        found = script.dequantize(integers, float(scale), zero_point)
        assert_same_bits(found, (integers.astype(np.float32) - zero_point) * scale)
        assert [in_c(int(each), float(scale), zero_point) for each in integers] == found.tolist()


def test_decode_py_alone_turns_a_file_of_outputs_into_metres(tmp_path):
    codec = HostIntegerFractional(RANGE)
    write_decoders(codec, output_layout(codec), tmp_path / "bundle")
    host = tmp_path / "host"
    host.mkdir()
    shutil.copy(tmp_path / "bundle" / "decode.py", host)
    codes = codec.encode(np.linspace(0.5, 15, 48, dtype=np.float32).reshape(1, 1, 6, 8))
    np.savez(host / "outputs.npz", integer=codes[:, :1], fractional=codes[:, 1:], something_else=np.zeros(3))

    def run(name):
        words = [sys.executable, "-I", "decode.py", name, "depth.npy"]  # -I: nothing of this checkout on the path
        return subprocess.run(words, cwd=host, capture_output=True, text=True, check=False)

    done = run("outputs.npz")
    assert done.returncode == 0, done.stderr
    assert_same_bits(np.load(host / "depth.npy", allow_pickle=False), codec.decode(codes))
    assert sorted(each.name for each in host.iterdir()) == ["decode.py", "depth.npy", "outputs.npz"]
    np.savez(host / "half.npz", integer=codes[:, :1])
    np.savez(host / "raw.npz", integer=codes[:, :1], fractional=codes[:, 1:].astype(np.uint8))
    np.savez(host / "shape.npz", integer=codes[:, :1], fractional=codes)
    np.save(host / "array.npy", codes)
    (host / "text.npz").write_text("text")
    for name, reason in (
        ("half.npz", "no output 'fractional'; received integer"),
        ("raw.npz", "'fractional' is uint8, expected floats: dequantize"),
        ("shape.npz", "'fractional' has the shape (1, 2, 6, 8), expected (..., 1, H, W)"),
        ("text.npz", "text.npz:"),
        ("array.npy", "array.npy:"),
        ("absent.npz", "No such file"),
    ):
        done = run(name)
        assert done.returncode == 1
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_the_files_hold_what_their_codec_needs_and_no_more(tmp_path):
    def text_of(codec, logits=False):
        python, header = write_decoders(codec, output_layout(codec, logits=logits), tmp_path)
        return python.read_text(), header.read_text()

    for text in text_of(HostSingle(RANGE, "linear")):
        assert "power_of_two" not in text
        assert "sigmoid" not in text
        assert "depth_m = 0.5 + (15 - 0.5) * code" in text
    for text in text_of(HostThermometer(RANGE, "linear", 4, "logit")):
        assert "power_of_two" in text
        assert "saturating_sigmoid" not in text
    for text in text_of(HostIntegerFractional(RANGE), logits=True):
        assert "saturating_sigmoid" in text
        assert "integer_logits" in text


def test_fast_math_is_refused(tmp_path):
    write_decoders(HostSingle(RANGE), output_layout(HostSingle(RANGE)), tmp_path)
    library_of(tmp_path)
    words = [COMPILER, *FLAGS, "-ffast-math", "decode.c", "-o", "fast.so"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "build without -ffast-math" in done.stderr


def test_outputs_that_do_not_carry_the_codes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="have 1 channels, but the codec has 8 codes"):
        write_decoders(HostThermometer(RANGE), OutputLayout(("codes",), (1,)), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ['d"""\nimport os', 'd"};', "d*/", "d\\", ""])
def test_a_name_of_somebody_elses_file_does_not_become_code(name, tmp_path):
    with pytest.raises(ConfigError, match="rename it in the file"):
        write_decoders(HostSingle(RANGE), OutputLayout((name,), (1,)), tmp_path)
    assert not list(tmp_path.iterdir())
    layout = OutputLayout(("StatefulPartitionedCall/depth-0.1:0",), (1,))
    write_decoders(HostSingle(RANGE), layout, tmp_path, note='For the device of x"""; import os */')
    assert {layout.names[0]: 1} == {**script_of(tmp_path).OUTPUTS}
    assert '"""; import' not in (tmp_path / "decode.py").read_text()
    assert "os */" not in (tmp_path / "decode.h").read_text()


@pytest.mark.parametrize(
    ("codec", "logits", "integers"),
    [
        (HostSingle(RANGE, "inverse"), False, IntegerCodes()),
        (HostSingle(RANGE, "log"), False, IntegerCodes(0.0037, 0)),
        (HostSingle(RANGE, "linear"), True, IntegerCodes(0.11, 131)),
        (HostTable(HostSingle(RANGE, "inverse"), [rising(256)]), False, IntegerCodes(1 / 255, -128, signed=True)),
        (HostTable(HostSingle(RANGE, "log"), [rising(17)[::-1]]), True, IntegerCodes(0.05, 3, signed=True)),
    ],
)
def test_the_header_has_the_depth_of_each_8_bit_code(codec, logits, integers, tmp_path):
    layout = output_layout(codec, logits=logits)
    write_decoders(codec, layout, tmp_path, integers)
    (tmp_path / "more.c").write_text(
        '#include "decode.h"\n'
        "const float *table(void) { return dd_depth_m_of_code; }\n"
        "void u8(float scale, int zero, float *out) { dd_fill_depth_m_of_u8(scale, zero, out); }\n"
        "void i8(float scale, int zero, float *out) { dd_fill_depth_m_of_i8(scale, zero, out); }\n"
    )
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc or clang) on the path")
    subprocess.run([COMPILER, *FLAGS, "more.c", "-o", "more.so"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "more.so"))
    library.table.restype = ctypes.POINTER(ctypes.c_float)
    given = integers
    script = script_of(tmp_path)
    stored = np.ctypeslib.as_array(library.table(), (256,))
    for signed in (False, True):
        raw = np.arange(256, dtype=np.uint8).view(np.int8 if signed else np.uint8).reshape(1, 1, -1)
        outputs = {layout.names[0]: script.dequantize(raw, given.scale, given.zero_point)}
        expected = script.decode(script.codes_of(outputs)).ravel()
        filled = np.zeros(256, np.float32)
        fill = library.i8 if signed else library.u8
        fill(ctypes.c_float(given.scale), given.zero_point, filled.ctypes.data_as(ctypes.c_void_p))
        assert_same_bits(filled, expected)
        if signed == given.signed:
            assert_same_bits(stored, expected)


def test_only_one_code_whose_integers_are_known_has_a_table_of_depth(tmp_path):
    single, several = HostSingle(RANGE), HostThermometer(RANGE)
    for codec, layout in ((single, output_layout(single, logits=True)), (several, output_layout(several))):
        _, header = write_decoders(codec, layout, tmp_path)
        assert "dd_depth_m_of_code" not in header.read_text().replace("dd_fill_depth_m_of", "")
    _, header = write_decoders(single, output_layout(single), tmp_path, None)
    assert "dd_depth_m_of_code" not in header.read_text().replace("dd_fill_depth_m_of", "")
    _, header = write_decoders(several, output_layout(several), tmp_path)
    assert "dd_fill_depth_m_of_u8" not in header.read_text()


def test_two_headers_of_one_bundle_are_not_mixed_up(tmp_path):
    codec = HostSingle(RANGE)
    write_decoders(HostTable(codec, [rising(8)]), output_layout(codec), tmp_path)
    write_decoders(codec, output_layout(codec), tmp_path, name="decode_float", note="For float files.")
    (tmp_path / "both.c").write_text('#include "decode.h"\n#include "decode_float.h"\n')
    if COMPILER is None:
        pytest.skip("no C compiler (cc, gcc or clang) on the path")
    done = subprocess.run([COMPILER, *FLAGS, "both.c", "-o", "b.so"], cwd=tmp_path, capture_output=True, text=True)
    assert "include the one for the file that runs" in done.stderr
    assert "For float files." in (tmp_path / "decode_float.py").read_text()
