"""For every suspect: a device with that fault, of which it is named, and no other one."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from depth_distill.data.network_inputs import PixelFormat
from depth_distill.export.device.diagnosis import diagnose
from depth_distill.export.device.evidence import collect
from depth_distill.export.device.suspects.registry import SUSPECTS
from depth_distill.export.device.verdict import verdict
from tests.export.device.faulty_chain import PIXELS, SIZE, Device, case_of, resized, save, write_photos


def through(function):
    """What is computed in place of the sigmoid, from the codes."""

    def said(codes):
        inside = np.clip(codes.astype(np.float64), 1e-7, 1 - 1e-7)
        inner = np.log(inside) - np.log1p(-inside)
        return np.rint(np.clip(function(inner), 0, 1) * 255) / 255

    return said


def plan(x):
    size = np.abs(x)
    value = np.select(
        [size < 1, size < 2.375, size < 5], [0.25 * size + 0.5, 0.125 * size + 0.625, 0.03125 * size + 0.84375], 1.0
    )
    return np.where(x < 0, 1 - value, value)


def looked_up(bits):
    def function(x):
        step = 16 / (2**bits - 1)
        return 1 / (1 + np.exp(-(np.rint((np.clip(x, -8, 8) + 8) / step) * step - 8)))

    return through(function)


def normalized(mean, std, raw=False):
    return lambda inputs, index: PixelFormat(mean, std, raw)(inputs.picture(index))


def twice(inputs, index):
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (PIXELS.mean, PIXELS.std))
    return (inputs.load(index) - mean) / std


UNIT = ((0.0,) * 3, (1.0,) * 3)
EXACT = {"rounded": False}
FAULTS = {
    "sigmoid_by_hard_sigmoid": [{"file": {"last": "HardSigmoid"}}],
    "sigmoid_by_relu6_sigmoid": [{**EXACT, "said": through(lambda x: np.clip(x + 3, 0, 6) / 6)}],
    "sigmoid_by_piecewise_sigmoid": [{**EXACT, "said": through(plan)}],
    "sigmoid_by_table_5": [{**EXACT, "said": looked_up(5)}],
    "sigmoid_by_table_6": [{**EXACT, "said": looked_up(6)}],
    "sigmoid_by_table_7": [{**EXACT, "said": looked_up(7)}],
    "sigmoid_by_table_8": [{**EXACT, "said": looked_up(8)}],
    "sigmoid_twice": [{"said": lambda codes: 1 / (1 + np.exp(-codes))}],
    "sigmoid_left_out": [{**EXACT, "file": {"last": "Identity"}}],
    "power_of_two_scale": [
        {**EXACT, "said": lambda codes, steps=steps: np.clip(np.rint(codes * steps), 0, steps - 1) / steps}
        for steps in (128, 64)
    ],
    "power_of_two_read": [
        {**EXACT, "said": lambda codes, steps=steps: np.clip(np.rint(codes * steps), 0, steps - 1) / 255}
        for steps in (256, 128, 64)
    ],
    "int8_read_as_uint8": [{"said": lambda codes: ((np.rint(codes * 255) + 128) % 256) / 255}],
    "transposed": [
        {"said": lambda codes: codes.swapaxes(1, 2)},  # as stored, (C, W, H)
        {"file": {"codes": 4}, "said": lambda codes: np.moveaxis(codes, 0, -1)},
        {"file": {"codes": 4}, "said": lambda codes: np.moveaxis(codes.reshape(*SIZE, 4), -1, 0)},
    ],
    "codes_reversed": [{"file": {"codes": 2}, "said": lambda codes: codes[::-1]}],
    "flipped_left_and_right": [
        {"said": lambda codes: codes[:, :, ::-1]},
        {"given": lambda inputs, index: inputs.load(index).flip(2)},
    ],
    "flipped_top_and_bottom": [
        {"said": lambda codes: codes[:, ::-1]},
        {"given": lambda inputs, index: inputs.load(index).flip(1)},
    ],
    "flipped_by_180_degrees": [
        {"said": lambda codes: codes[:, ::-1, ::-1]},
        {"given": lambda inputs, index: inputs.load(index).flip(1, 2)},
    ],
    "other_order": [
        {"order": lambda index, count: (index + 1) % count},
        {"order": lambda index, count: {0: 3, 3: 0}.get(index, index)},
    ],
    "colour_order": [
        {"given": lambda inputs, index: inputs.load(index).flip(0)},
        {"given": lambda inputs, index: PIXELS(inputs.picture(index).flip(0))},
    ],
    "missing_normalization": [{"given": normalized(*UNIT)}, {"given": normalized(*UNIT, raw=True)}],
    "doubled_normalization": [{"given": twice}, {"given": lambda inputs, index: twice_by_255(inputs, index)}],
    "other_normalization": [
        {"given": normalized((0.5,) * 3, (0.5,) * 3)},
        {"given": normalized((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))},
    ],
    "other_resize": [
        {"given": resized(ImageOps.fit, method=Image.Resampling.NEAREST)},
        {"given": resized(Image.Image.resize, resample=Image.Resampling.BILINEAR)},
        {"given": resized(Image.Image.resize, resample=Image.Resampling.NEAREST)},
        {"given": resized(ImageOps.pad, method=Image.Resampling.BILINEAR)},
    ],
    "zero_padding": [{"file": {"pad": "constant"}}],
    "activation_elu": [{"file": {"inner": "Relu"}}],
}
WITHOUT_DEVICE = {
    "activation_sigmoid",
    "activation_tanh",
    "activation_softplus",
    "activation_swish",
    "activation_gelu",
    "activation_hardswish",
    "activation_hardsigmoid",
}  # the same code as that of Elu, for networks that have these


def twice_by_255(inputs, index):
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (PIXELS.mean, PIXELS.std))
    return (inputs.load(index) / 255 - mean) / std


def found_in(folder, file=None, given=None, **returned):
    write_photos(folder / "photos")
    settings = file or {}
    Device(folder, save(folder / "chain.onnx", **settings))(given, **returned)
    codes = settings.get("codes", 1)
    return diagnose(collect(case_of(folder, save(folder / "float.onnx", codes=codes), codes)))


def test_every_suspect_has_a_device():
    assert {each.key for each in SUSPECTS} == {*FAULTS, *WITHOUT_DEVICE}


@pytest.mark.parametrize(
    ("name", "fault"),
    [pytest.param(name, each, id=f"{name}_{k}") for name in FAULTS for k, each in enumerate(FAULTS[name])],
)
def test_a_device_with_a_fault_is_told_by_name(tmp_path, name, fault):
    found = found_in(tmp_path, **fault)
    best = [(each.title, each.explains) for each in found.tried[:3]]
    assert found.finding == name, best
    assert not found.sound
    assert found.fitted_mm < 0.65 * found.shares.mean_mm  # rounding to 8 bits is left
    assert len(verdict(found).splitlines()) == 1
