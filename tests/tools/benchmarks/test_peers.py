import json
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.export.backends.vendor_ptq import vendor_ptq
from depth_distill.export.interface.calibration_set import write_calibration_set
from depth_distill.export.onnx_io.file_spec import FileSpec
from depth_distill.export.onnx_io.float_onnx import export_float
from depth_distill.quantization.target.target import load_target
from tools.benchmarks.peers import PEERS, HardFile, Peer, _scored, granularity_of, measure, references, substituted
from tools.benchmarks.peers_table import Row, aim_of, tables


@pytest.fixture
def hard_file(tmp_path):
    """A network of the set, as small as can be."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid()
    ).eval()
    export_float(network, tmp_path / "float.onnx", FileSpec(8, 8, 13))
    images = torch.randn(8, 3, 8, 8)
    write_calibration_set(images.numpy(), np.zeros((8, 3, 8, 8), np.uint8), "image", tmp_path / "calibration")
    depth_m = np.full((8, 1, 8, 8), 2.0, np.float32)
    np.savez(tmp_path / "held_out.npz", image=images.numpy(), depth_m=depth_m, valid=depth_m > 0)
    codec = {"kind": "single", "min_depth_m": 0.5, "max_depth_m": 15.0, "encoding": "log"}
    metadata = {"name": "tiny", "target": "per-tensor-minmax", "substitution": None, "codec": codec}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    return HardFile(tmp_path)


def test_the_network_itself_has_no_deviation(hard_file):
    scores, granularity = hard_file.of_float(hard_file.file, hard_file.folder)
    assert granularity == "per tensor"
    assert scores["deviation_mm"] > 0
    assert scores["p99_mm"] >= scores["deviation_mm"]
    exact = hard_file.score(hard_file.reference)
    assert exact["deviation_mm"] == 0
    assert exact["sqnr_db"] > 100
    assert exact["abs_rel"] == pytest.approx(scores["abs_rel"], rel=0.05)


def test_granularity_is_read_from_the_file(hard_file):
    for per_channel, expected in ((False, "per tensor"), (True, "per channel, 1 of 2 weights")):
        path = vendor_ptq(hard_file.file, hard_file.calibration, hard_file.folder / "ptq.onnx", per_channel)
        assert granularity_of(onnx.load(path)) == expected  # one output channel has one scale
    assert granularity_of(onnx.load(hard_file.file)) == "no quantized weights"


def test_a_substituted_operator_is_scored(hard_file):
    path = substituted(hard_file.file, hard_file.folder / "hard.onnx", "Sigmoid", "HardSigmoid")
    assert [node.op_type for node in onnx.load(path).graph.node][-1] == "HardSigmoid"
    plain, _ = hard_file.of_float(hard_file.file, hard_file.folder)
    hard_file.metadata["substitution"] = ["Sigmoid", "HardSigmoid"]
    hard, _ = hard_file.of_float(hard_file.file, hard_file.folder)
    assert hard["deviation_mm"] > plain["deviation_mm"]
    with pytest.raises(ConfigError, match="has no Softplus"):
        substituted(hard_file.file, path, "Softplus", "Relu")


def test_rows_of_a_file_of_a_toolkit_that_fails_and_of_ours(hard_file):
    per_tensor, per_channel = references(hard_file)
    assert per_tensor.granularity == "per tensor"
    assert per_channel.granularity.startswith("per channel")
    missing = measure(hard_file, Peer("nobody", "Nobody", ("cle",)), "cle", 60)
    assert not missing.scores
    assert "--install nobody" in missing.error
    ours = measure(hard_file, PEERS[0], "equalize", 300)
    assert not ours.error
    assert ours.kind == "float"
    assert ours.cpu_seconds > 0
    assert ours.peak_mb > 10
    assert "returned" in ours.notes[0]
    text = tables([per_tensor, per_channel, missing, ours])
    assert "| Nobody | cle | tiny |" in text
    assert "not installed" in text


@pytest.mark.parametrize("changes", [{"substitution": ["Sigmoid", "HardSigmoid"]}, {"target": "symmetric-pow2"}])
def test_outputs_of_a_toolkit_are_not_scored_for_a_target_that_it_does_not_compute(hard_file, changes):
    np.save(hard_file.folder / "outputs.npy", np.full((8, 1, 8, 8), 0.5, np.float32))
    assert _scored(hard_file, hard_file.folder, "outputs")[0]["deviation_mm"] > 0
    hard_file.metadata |= changes
    hard_file.target = load_target(hard_file.metadata["target"])
    with pytest.raises(ConfigError, match="outputs instead of a file"):
        _scored(hard_file, hard_file.folder, "outputs")


def row(peer, method, deviation, seconds, granularity="per tensor"):
    scores = {"deviation_mm": deviation, "sqnr_db": 30.0, "abs_rel": 0.1}
    return Row("tiny", peer, method, "float", granularity, scores, seconds, 100.0)


def test_the_aim_is_half_of_the_best_peer_that_took_no_longer_and_that_has_one_scale_per_tensor():
    rows = [
        row("untouched", "one scale per channel", 12.0, math.nan, "per channel, 3 of 3 weights"),
        row("depth-distill", "equalize", 11.0, 10.0),
        row("Quark", "cle", 21.0, 5.0),
        row("AIMET", "adaround", 13.0, 100.0),
        row("ModelOpt", "max", 9.0, 5.0, "per channel, 3 of 3 weights"),
    ]
    aim = aim_of(rows)
    assert (aim.peer.peer, aim.as_fast.peer) == ("AIMET", "Quark")
    assert not aim.beats_peers
    assert aim.beats_per_channel
    rows[1].scores["deviation_mm"] = 10.5
    assert aim_of(rows).beats_peers
    assert "| 10.50 (depth-distill equalize, 10 s) |" in tables(rows)
    assert aim_of(rows[1:2]) is None
