"""The way of a network that is not ours: its code and checkpoint, or its ONNX file, to a bundle."""

import argparse
import json

import onnx
import pytest
import torch
import yaml

from depth_distill.cli import main
from depth_distill.evaluation import Evaluator
from depth_distill.loading.meaning import Meaning
from depth_distill.loading.meaning_scores import better_meaning, score_meanings
from depth_distill.loading.trained import load_run
from depth_distill.models import DepthCodec
from depth_distill.types import DepthBatch
from tests.loading.strangers import Monodepth, randomized

MEANING = {"encoding": "inverse", "near": 1, "min_m": 0.5, "max_m": 15.0}
DATA = {
    "train": {"class_path": "SyntheticDepth", "init_args": {"length": 8, "size": [32, 64]}},
    "val": {"class_path": "SyntheticDepth", "init_args": {"length": 4, "size": [32, 64], "seed": 1}},
    "image_size": [32, 64],
    "batch_size": 4,
    "num_workers": 0,
}


class TheirConfig:
    """What a training script pickles beside the weights, of a class that is not there when they are read."""


@pytest.fixture(scope="module")
def theirs():
    return randomized(Monodepth("zeros", "relu"))


@pytest.fixture(scope="module")
def checkpoint(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs") / "epoch=11.ckpt"
    state = {f"model.depth_net.{key}": value for key, value in theirs.state_dict().items()}
    hyper_parameters = argparse.Namespace(config=TheirConfig(), lr=1e-4)
    torch.save({"state_dict": state, "hyper_parameters": hyper_parameters, "epoch": 11}, path)
    return path


def config(path, weights=None, **init_args):
    network = {
        "module": {
            "class_path": "tests.loading.strangers.Monodepth",
            "init_args": {"pad": "zeros", "activation": "relu"},
        },
        "output": [["disp", 0]],
        "meaning": MEANING,
        "stride": 16,
        **({} if weights is None else {"weights": str(weights), "prefix": "model.depth_net."}),
        **init_args,
    }
    model = {"init_args": {"network": {"class_path": "ImportedNetwork", "init_args": network}}}
    path.write_text(yaml.safe_dump({"data": DATA, "model": model}))
    return str(path)


def imported(folder, *words):
    assert main(["import", "--images", "4", "--out", str(folder), *map(str, words)]) == 0
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return imported(folder / "mine", "--config", config(folder / "my.yaml", checkpoint))


def test_the_run_computes_what_the_module_computes(run, theirs):
    loaded = load_run(run)
    images = loaded.calibration_images(4)[0]

    with torch.no_grad():
        disp = theirs(images)[("disp", 0)]
        torch.testing.assert_close(
            loaded.network.predict_depth(images), 1 / (1 / 15 + (1 / 0.5 - 1 / 15) * disp), rtol=1e-5, atol=0
        )


def test_what_was_verified_is_written_down(run):
    record = json.loads((run.parent.parent / "import.json").read_text())

    assert max(record["deviation"].values()) < 1e-5
    assert list(record["deviation"]) == ["import", "fold", "equalize"]
    assert record["pinned"] == {"dispconv.0": "read by sigmoid (Sigmoid), not positively homogeneous"}
    assert record["layers"] == 19
    assert any("hyper_parameters" in note for note in record["notes"])


@pytest.mark.slow
def test_from_their_checkpoint_to_a_bundle_at_opset_11(run, tmp_path, capsys):
    settings = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--panels.every_n_epochs",
        "0",
    ]
    distil = yaml.safe_load((run.parent.parent / "config.yaml").read_text())
    init = {"network": distil["model"]["init_args"]["network"], "teacher_checkpoint": str(run)}
    init["output"] = {"class_path": "CompositeLoss", "init_args": {"terms": {"log_l1": {"class_path": "LogL1Loss"}}}}
    init["features"] = [{"student": "encoder.layer?", "loss": {"class_path": "FeatureNormalizedMSE"}}]
    distil["model"] = {"class_path": "DistillationTask", "init_args": init}
    fake_quant = {"class_path": "FakeQuant", "init_args": {"target": "aiware-apache6"}}
    distil["trainer"] = {"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [fake_quant]}
    (tmp_path / "distil.yaml").write_text(yaml.safe_dump(distil))
    student = tmp_path / "student" / "checkpoints" / "last.ckpt"
    fit = ["fit", "--config", str(tmp_path / "distil.yaml"), "--run_dir", str(tmp_path / "student"), *settings]

    assert main(fit) == 0
    resume = ["fit", "--config", str(student.parent.parent / "config.yaml"), "--ckpt_path", str(student), *settings]
    assert main([*resume, "--trainer.max_epochs", "2"]) == 0
    bundle = tmp_path / "bundle"
    export = ["export", "--checkpoint", str(student), "--target", "aiware-apache6", "--out", str(bundle)]
    assert main([*export, "--calibration-images", "4", "--images", "4"]) == 0

    manifest = json.loads((bundle / "manifest.json").read_text())
    model = onnx.load(bundle / manifest["artifacts"]["float"])
    assert [each.version for each in model.opset_import] == [11]
    capsys.readouterr()
    assert (
        main(["npu-info", "--target", "aiware-apache6", "--check", str(bundle / manifest["artifacts"]["float"])]) == 0
    )
    assert "0 violations" in capsys.readouterr().out


def test_a_module_goes_through_onnx_as_well(checkpoint, theirs, tmp_path):
    last = imported(tmp_path / "mine", "--config", config(tmp_path / "my.yaml", checkpoint), "--through-onnx")

    loaded = load_run(last)
    images = loaded.calibration_images(4)[0]
    with torch.no_grad():
        codes = 1 - theirs(images)[("disp", 0)]
        torch.testing.assert_close(loaded.network(images), codes, rtol=0, atol=1e-5)
    assert (tmp_path / "mine" / "network.onnx").is_file()


def test_what_cannot_be_traced_goes_through_onnx_without_being_asked(tmp_path, capsys):
    class_path = "tests.commands.test_import.Untraceable"
    arguments = {"module": {"class_path": class_path}, "output": None}

    last = imported(tmp_path / "mine", "--config", config(tmp_path / "my.yaml", **arguments))

    assert "goes through ONNX, because" in capsys.readouterr().out
    assert load_run(last).network.notes[-1].startswith("folded into")


class Untraceable(torch.nn.Module):
    """A check that symbolic tracing cannot follow."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, image):
        if len(image) > 99:
            raise ValueError("too many")
        return torch.sigmoid(self.conv(image))


def test_an_onnx_file_with_its_meaning(theirs, tmp_path):
    class Disparity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = theirs

        def forward(self, image):
            return self.network(image)[("disp", 0)]

    file = tmp_path / "theirs.onnx"
    torch.onnx.export(Disparity(), (torch.zeros(1, 3, 32, 64),), file, opset_version=18, dynamo=True, verbose=False)
    data = [f"--data.{split}" for split in ("train", "val")]
    words = [word for split in data for word in (split, "SyntheticDepth", f"{split}.init_args.length", "4")]

    last = imported(
        tmp_path / "mine", "--onnx", file, "--meaning", yaml.safe_dump(MEANING), *words,
        "--data.num_workers", "0", "--data.batch_size", "4",
    )  # fmt: skip

    loaded = load_run(last)
    images = loaded.calibration_images(4)[0]
    assert tuple(images.shape[-2:]) == (32, 64)
    with torch.no_grad():
        codes = 1 - theirs(images)[("disp", 0)]
        torch.testing.assert_close(loaded.network(images), codes, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --config, which describes the network, or --onnx"),
        (["--onnx", "nowhere.onnx"], "there is no file 'nowhere.onnx'"),
        (["--onnx", "README.md"], "meaning: say what the output means"),
    ],
)
def test_what_is_missing_is_said(words, message, tmp_path, capsys):
    assert main(["import", "--out", str(tmp_path / "mine"), *words]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")

    assert main(["import", "--config", config(tmp_path / "my.yaml"), "--out", str(tmp_path / "mine")]) == 2

    assert "exists and is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_a_wrong_meaning_is_found_by_the_ground_truth():
    depth_m = torch.linspace(0.6, 12, 64).view(1, 1, 8, 8)
    batch = DepthBatch(torch.zeros(1, 3, 8, 8), depth_m, torch.ones_like(depth_m, dtype=torch.bool), torch.zeros(1))
    true = Meaning(**MEANING)
    scale, offset, _ = true.affine
    output = (DepthCodec(true.host_codec).encode(depth_m) - offset) / scale
    given = Meaning(**{**MEANING, "near": 0})

    scores = score_meanings(given, Evaluator([batch], DepthCodec(given.host_codec), ()), [output])

    assert scores[0].meaning == given
    assert scores[0].abs_rel > 0.8
    better = better_meaning(scores)
    assert better.meaning == true
    assert better.abs_rel < 1e-3
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert better_meaning(score_meanings(given, Evaluator([batch], DepthCodec(given.host_codec), ()), [noise])) is None


def test_a_network_of_any_meaning_is_known_by_its_deviation_only(checkpoint, theirs, tmp_path, capsys):
    arguments = {"output": None, "outputs": [[["disp", 0]], [["disp", 1]]], "meaning": {"returns": "unknown"}}

    last = imported(tmp_path / "mine", "--config", config(tmp_path / "my.yaml", checkpoint, **arguments))

    loaded = load_run(last)
    images = loaded.calibration_images(4)[0]
    with torch.no_grad():
        wanted, found = theirs(images), loaded.network(images)
    torch.testing.assert_close(found, (wanted[("disp", 0)], wanted[("disp", 1)]), rtol=0, atol=1e-6)
    record = json.loads((tmp_path / "mine" / "import.json").read_text())
    assert max(record["deviation"].values()) < 1e-5
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(last)]) == 2
    assert "only its deviation from FP32 can be reported" in capsys.readouterr().err
