import json
import shutil

import pytest
import torch
import yaml

from depth_distill.models import DepthNet, IntegerFractionalHead
from tools.benchmarks import heads_table


@pytest.fixture
def integer_fractional(trained_checkpoint, tmp_path):
    """A run like the trained one but with a fresh integer/fractional head."""
    shutil.copytree(trained_checkpoint.parents[1], tmp_path / "two_part")
    config_file = tmp_path / "two_part" / "config.yaml"
    config = yaml.safe_load(config_file.read_text())
    arguments = config["model"]["init_args"]["network"]["init_args"]
    head = {"decoder": "round", "integer": "floor"}
    arguments["head"] = {"class_path": "IntegerFractionalHead", "init_args": head}
    config_file.write_text(yaml.safe_dump(config))
    network = DepthNet(
        arguments["encoder"],
        decoder_channels=arguments["decoder_channels"],
        head=lambda channels, depth_range: IntegerFractionalHead(channels, depth_range, **head),
        start_from=trained_checkpoint,
    )
    checkpoint = tmp_path / "two_part" / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {f"network.{key}": value for key, value in network.state_dict().items()}}, checkpoint)
    return checkpoint


@pytest.mark.slow
def test_every_head_and_decoder_has_a_row(trained_checkpoint, integer_fractional, tmp_path, capsys):
    words = ["--checkpoint", str(trained_checkpoint), "--trained", str(integer_fractional), "--num-codes", "16"]
    words += ["--images", "4", "--calibration-images", "4", "--out", str(tmp_path / "out")]
    words += ["--backends", "onnxruntime", "--behind-sigmoid"]
    assert heads_table.main(words) == 0
    rows = {row["head"]: row for row in json.loads((tmp_path / "out" / "heads_table.json").read_text())["rows"]}
    single, thermometer = rows["single, log, sigmoid"], rows["thermometer x 16, log, logit"]
    behind = rows["thermometer x 16, log, behind the sigmoid"]
    decoders = [rows[f"integer/fraction (floor, sawtooth), {name}"] for name in ("sum", "round", "unwrap")]
    pair = rows["pair x 16, log, logit"]
    assert len(rows) == 7

    # The float network is the same whatever its codes; INT8 is not.
    for row in (thermometer, behind, pair):
        assert row["float_abs_rel"] == pytest.approx(single["float_abs_rel"], rel=1e-4)
    assert [row["bytes_per_pixel"] for row in (single, decoders[0], pair, thermometer)] == [1, 2, 2, 16]
    assert pair["output_drift_mm"] < 1.05 * thermometer["output_drift_mm"]
    assert pair["carry_rate"] < 1e-3
    # Nothing but the runner differs: the same quantizer on the same file.
    assert pair["backends"]["onnxruntime"]["drift_mm"] == pytest.approx(pair["drift_mm"], rel=0.2)
    assert thermometer["output_drift_mm"] < single["output_drift_mm"] / 4
    # Behind the sigmoid the last rounding is as fine, but the sigmoid was rounded before it.
    assert behind["output_drift_mm"] < single["output_drift_mm"] / 4
    assert behind["head_drift_mm"] > 0.8 * single["head_drift_mm"]
    assert thermometer["head_drift_mm"] == pytest.approx(thermometer["output_drift_mm"])
    assert all(0 <= row["carry_rate"] <= 1 and 0 <= row["float_carry_rate"] <= 1 for row in decoders)
    assert single["carry_rate"] is None

    text = (tmp_path / "out" / "heads_table.md").read_text()
    assert "### small (per-image mean, depth 0.5-15 m)" in text
    assert "### two_part" in text
    assert "| head | ONNX Runtime " in text
    assert (tmp_path / "out" / "heads_table.png").stat().st_size > 0
    assert "thermometer x 16, log, logit" in capsys.readouterr().out


def test_a_cell_without_a_carry_rate_is_empty():
    row = {"bytes_per_pixel": 1, "carry_rate": None, "float_carry_rate": 0.0123}
    numbers = ("float_abs_rel", "int8_abs_rel", "drift_mm", "drift_p99_mm", "output_drift_mm", "output_drift_p99_mm")
    row |= dict.fromkeys((*numbers, "head_drift_mm"), 0.5)
    assert heads_table.cells(row)[-2:] == ["", "1.230%"]
    assert len(heads_table.cells(row)) == len(heads_table.COLUMNS)
