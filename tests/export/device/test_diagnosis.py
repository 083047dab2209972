"""What is no known fault: sound INT8, curves and places that nobody has named, and how the error is divided."""

import numpy as np
import pytest
import torch

from depth_distill.export.device.diagnosis import diagnose
from depth_distill.export.device.evidence import collect, evenly
from depth_distill.export.device.verdict import verdict
from depth_distill.quantization.passes.base import Context
from depth_distill.quantization.preparation import Preparer
from depth_distill.quantization.recipe import NAIVE
from depth_distill.quantization.target.target import load_target
from tests.export.device.faulty_chain import Device, case_of, save, write_photos


@pytest.fixture
def device(tmp_path):
    write_photos(tmp_path / "photos")
    return Device(tmp_path, save(tmp_path / "float.onnx"))


def found_in(folder, suspects=None):
    case = case_of(folder, folder / "float.onnx")
    return diagnose(collect(case)) if suspects is None else diagnose(collect(case), suspects)


@pytest.mark.parametrize(("most", "expected"), [(1, [3]), (2, [3, 9]), (9, [3, 5, 7, 9])])
def test_one_of_several_may_be_taken(most, expected):
    assert evenly([3, 5, 7, 9], most) == expected


def test_sound_int8_is_called_sound(tmp_path, device):
    case = case_of(tmp_path, tmp_path / "float.onnx")
    batches = [torch.stack([case.inputs.load(index) for index in range(len(case))])]
    context = Context(load_target("per-tensor-minmax"), batches, case.source.interface, progress=False)
    quantized = Preparer(case.source.network, context)(NAIVE).quantized
    (tmp_path / "npu").mkdir()
    for index, file in enumerate(case.inputs.files):
        np.save(tmp_path / "npu" / f"{file.stem}.npy", case.codes_of(quantized, case.inputs.load(index)))
    found = diagnose(collect(case_of(tmp_path, tmp_path / "float.onnx")))
    assert found.finding == "sound", verdict(found)
    assert found.named is None
    assert verdict(found).startswith("nothing is wrong: ")


def test_an_output_that_is_only_rounded_is_its_step(tmp_path, device):
    device()
    found = found_in(tmp_path)
    assert found.sound
    assert found.shares.parts["step"].share == pytest.approx(1, abs=0.1)
    assert found.shares.step_mm == pytest.approx(found.shares.rms_mm, rel=0.1)


def test_parts_add_up_to_the_whole(tmp_path, device):
    generator = np.random.default_rng(0)
    device(said=lambda codes: np.clip(codes**1.5 + generator.normal(0, 0.02, codes.shape), 0.2, 1))
    shares = found_in(tmp_path).shares
    parts = list(shares.parts.values())
    assert sum(each.share for each in parts) == pytest.approx(1, abs=1e-9)
    assert sum(each.mm for each in parts) == pytest.approx(shares.mean_mm)
    assert sum(each.relative for each in parts) == pytest.approx(shares.relative)
    assert min(each.share for each in parts) >= 0


def test_an_unknown_curve_is_systematic(tmp_path, device):
    device(said=lambda codes: np.rint(codes**2 * 255) / 255)
    found = found_in(tmp_path)
    assert found.finding == "unknown_curve"
    assert found.shares.parts["systematic"].share > 0.9
    assert "depth-distill fit-decoder takes" in verdict(found)
    assert found.cured.mean_mm < 0.2 * found.shares.mean_mm


def test_what_a_curve_loses_at_its_ends_is_clipping(tmp_path, device):
    device(said=lambda codes: np.clip(codes, 0, 0.5))
    found = found_in(tmp_path)
    assert found.finding == "clipping"
    assert found.shares.parts["clipping"].share > 0.5


def test_an_error_of_the_border_is_told_from_one_of_tiles(tmp_path, device):
    def at_border(codes):
        wrong = codes.copy()
        wrong[:, :2], wrong[:, -2:] = wrong[:, :2] * 0.6, wrong[:, -2:] * 0.6
        return wrong

    def in_tiles(codes):
        wrong = codes.copy()
        for start in range(8, codes.shape[1], 8):
            wrong[:, start - 1] += 0.15
            wrong[:, start] -= 0.15
        return np.clip(wrong, 0, 1)

    device(said=at_border)
    found = found_in(tmp_path)
    assert found.finding == "border", verdict(found)
    assert found.patterns.bands_mm[0] > 3 * found.patterns.bands_mm[-1]
    device(said=in_tiles)
    found = found_in(tmp_path)
    assert found.finding == "tiles", verdict(found)
    assert (found.patterns.period, found.patterns.axis) == (8, "rows")
    assert "every 8 rows" in verdict(found)


def test_an_offset_of_each_image_is_per_image(tmp_path, device):
    generator = np.random.default_rng(0)
    device(said=lambda codes: 0.5 + (codes - 0.5) * generator.uniform(0.7, 0.8) + generator.uniform(-0.1, 0.1))
    found = found_in(tmp_path)
    assert found.finding == "per_image"
    assert found.shares.parts["per_image"].share > 0.5


def test_noise_is_no_known_fault(tmp_path, device):
    generator = np.random.default_rng(0)
    device(said=lambda codes: np.clip(codes + generator.normal(0, 0.03, codes.shape), 0, 1))
    found = found_in(tmp_path)
    assert found.finding == "coarse"
    assert found.shares.parts["random"].share > 0.6
    assert "depth-distill harden" in verdict(found)
