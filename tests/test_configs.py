"""Every data block that is shipped reads the real format it is for, and trains; every head block trains."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from depth_distill.cli import main
from depth_distill.data import RgbdFolder
from depth_distill.data.streamed import streamed_item
from depth_distill.lightning_cli import DataCLI, build_cli
from depth_distill.models import DepthNet
from depth_distill.types import DepthRange
from tests.data.files import write_depth

CONFIGS = Path(__file__).parents[1] / "configs"
BLOCKS = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
HEADS = sorted(path.stem for path in (CONFIGS / "head").glob("*.yaml"))
NETWORK = "--model.init_args.network.init_args."


def link(folder, **targets):
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    return folder


def tum(data_root, folder):
    sequence = data_root / "formats" / "tum"
    return link(folder, train=sequence, val=sequence)


def ncdb(data_root, folder):
    source = data_root / "formats" / "ncdb"
    split = source / "splits" / "combined_val.json"
    link(folder / "splits", **{"combined_train.json": split, "combined_val.json": split})
    return link(folder, synced_data=source / "synced_data")


def nyuv2_labeled(folder):
    """The published file has 2.8 GiB: two flat frames in its layout."""
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.full((2, 3, 640, 480), 128, np.uint8)
        file["depths"] = np.full((2, 640, 480), 2.5, np.float32)
    for split, frames in (("train", [0]), ("val", [1])):
        (folder / f"{split}.json").write_text(json.dumps(frames))
    return folder


REAL = {
    "kitchen": (lambda data_root, folder: data_root / "kitchen", (0.8, 3.5)),
    "nyuv2": (lambda data_root, folder: data_root / "nyuv2", (0.7, 10.0)),
    "kitti": (lambda data_root, folder: data_root / "formats" / "kitti", (10.0, 16.0)),
    "tum": (tum, (1.0, 2.0)),
    "ncdb": (ncdb, (6.0, 10.0)),
}
"""How to get a data root of the block's layout, and where the median of the first validation frame lies, in metres."""


def check(name, root, median_range_m, folder):
    block = CONFIGS / "data" / f"{name}.yaml"
    words = ["--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data", str(block), "--data.root", str(root)]
    words += ["--data.num_workers", "0", "--data.batch_size", "1"]
    datamodule = build_cli(DataCLI, words, run=False).datamodule
    datamodule.setup("fit")
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        batch = next(iter(loader))
        size = yaml.safe_load(block.read_text()).get("image_size", [96, 128])
        assert batch.image.shape == (1, 3, *size)
        assert batch.depth_m.shape == batch.valid.shape == (1, 1, *size)
    low_m, high_m = median_range_m
    assert low_m < batch.depth_m[batch.valid].median() < high_m  # of the last loader, which does not zoom
    small = [f"{NETWORK}encoder", "mobilenetv3_small_050", f"{NETWORK}decoder_channels", "[16,16,8,8,8]"]
    trial = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--run_dir", str(folder / "run")]
    assert main(["fit", *words, *small, *trial]) == 0


def rgbd(folder):
    """RGB-D files of the layout that the kitchen's configs read; batches of 16 need as many samples."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 2)):
        lines = ["image,depth"]
        for index in range(count):
            name = f"{split}{index}.png"
            write_depth(folder / "depth" / name, 1000 + 200 * index, size=(64, 48))
            (folder / "rgb").mkdir(exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / "rgb" / name)
            lines.append(f"rgb/{name},depth/{name}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_shipped_distillation_runs(tmp_path):
    small = [f"{NETWORK}encoder", "test_resnet", f"{NETWORK}decoder_channels", "[8,8,8,8,8]"]
    depth_range = DepthRange(0.5, 15.0)
    teacher = DepthNet("test_resnet", decoder_channels=(8, 8, 8, 8, 8), depth_range=depth_range)
    state = {f"network.{name}": value for name, value in teacher.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "teacher.ckpt")
    words = ["--config", str(CONFIGS / "distill" / "kitchen.yaml"), "--data.root", str(rgbd(tmp_path / "data"))]
    words += ["--data.num_workers", "0", "--data.image_size", "[32,64]", "--trainer.accelerator", "cpu"]
    words += ["--model.init_args.teacher_checkpoint", str(tmp_path / "teacher.ckpt"), *small]
    trial = ["--trainer.fast_dev_run", "1", "--run_dir", str(tmp_path / "run"), "--panels.every_n_epochs", "0"]
    assert main(["fit", *words, *trial]) == 0


def test_the_shipped_surgery_runs(tmp_path):
    words = ["--config", str(CONFIGS / "distill" / "surgery.yaml"), "--data.image_size", "[32,64]"]
    words += ["--data.num_workers", "0", "--data.batch_size", "2", "--data.calibration_size", "2"]
    words += [f"{NETWORK}encoder", "test_resnet", f"{NETWORK}decoder_channels", "[8,8,8,8,8]"]
    words += ["--model.init_args.features", "[]", "--trainer.accelerator", "cpu"]
    for split in ("train", "val"):
        words += [f"--data.{split}.init_args.length", "2", f"--data.{split}.init_args.size", "[32,64]"]
    trial = ["--trainer.fast_dev_run", "1", "--run_dir", str(tmp_path / "run"), "--panels.every_n_epochs", "0"]
    assert main(["fit", *words, *trial]) == 0


@pytest.mark.parametrize(("teacher", "student"), [("quickstart", "quickstart"), ("teacher/resnet18", "kitchen")])
def test_a_shipped_student_starts_as_its_teacher(teacher, student):
    configs = [CONFIGS / f"{teacher}.yaml", CONFIGS / "distill" / f"{student}.yaml"]
    networks = [yaml.safe_load(config.read_text())["model"]["init_args"]["network"] for config in configs]
    assert networks[0] == networks[1]


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"nyuv2_labeled", "streamed"}))
def test_a_shipped_data_block_on_real_files(name, data_root, tmp_path):
    build, median_range_m = REAL[name]
    check(name, build(data_root, tmp_path / "data"), median_range_m, tmp_path)


def test_the_shipped_block_of_the_matlab_file(tmp_path):
    check("nyuv2_labeled", nyuv2_labeled(tmp_path), (2.49, 2.51), tmp_path)


def test_the_shipped_block_of_streamed_data(tmp_path):
    pytest.importorskip("litdata", reason="litdata is not installed (the extra 'streaming')")
    from litdata.streaming.writer import BinaryWriter

    for split in ("train", "val"):
        chunks = BinaryWriter(str(tmp_path / "chunks" / split), chunk_size=3)
        for index, files in enumerate(RgbdFolder(rgbd(tmp_path / "data"), f"{split}.csv").sample_files):
            chunks[index] = streamed_item(files)
        chunks.done()
        chunks.merge()
    check("streamed", tmp_path / "chunks", (0.99, 1.01), tmp_path)


def test_the_address_of_streamed_data_stays_as_it_is():
    block = str(CONFIGS / "data" / "streamed.yaml")
    words = ["--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data", block, "--data.root", "s3://bucket/set"]
    assert build_cli(DataCLI, words, run=False).datamodule.train.root == "s3://bucket/set/train"


@pytest.mark.real_data
def test_the_data_check_on_a_part_of_the_kitchen(data_root, tmp_path, monkeypatch, capsys):
    kitchen = data_root / "kitchen"
    root = link(tmp_path / "my_data", rgb=kitchen / "rgb", depth=kitchen / "depth")
    for split in ("train", "val"):
        with (kitchen / f"{split}.csv").open() as file:
            rows = list(csv.reader(file))
        (root / f"{split}.csv").write_text("\n".join(",".join(row) for row in rows[:6]) + "\n")
    monkeypatch.chdir(tmp_path)
    words = ["validate-data", "--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data.root", "my_data"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("256 x 192") == 2
    assert printed.count("100.0%") == 2  # in the depth range
    assert main([*words, "--data.val.init_args.depth_scale", "1"]) == 1
    assert "val: most depths are out of range; depth_scale 1000 was probably meant" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "depth_scale"), [("kitti", 256), ("ncdb", 256), ("tum", 5000), ("kitchen", 1000)])
def test_a_data_block_keeps_its_unit_after_a_config_with_another(name, depth_scale, tmp_path):
    config = yaml.safe_load((CONFIGS / "teacher" / "resnet18.yaml").read_text())
    config["data"]["train"]["init_args"]["depth_scale"] = config["data"]["val"]["init_args"]["depth_scale"] = 1234
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config))
    block = str(CONFIGS / "data" / f"{name}.yaml")
    words = ["--config", str(tmp_path / "mine.yaml"), "--data", block, "--data.root", "my_data"]
    datamodule = build_cli(DataCLI, words, run=False).datamodule
    assert datamodule.train.depth_scale == datamodule.val.depth_scale == depth_scale


def test_a_data_set_named_in_the_place_of_the_teachers_has_its_own_unit():
    words = ["--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--data.root", "my_data"]
    words += ["--data.train", "KittiDepth", "--data.train.init_args.root", "my_data"]
    assert build_cli(DataCLI, words, run=False).datamodule.train.depth_scale == 256


@pytest.mark.parametrize("name", HEADS)
def test_a_shipped_head_trains_after_any_run_s_config(name, tmp_path):
    words = ["--config", str(CONFIGS / "teacher" / "resnet18.yaml"), "--config", str(CONFIGS / "head" / f"{name}.yaml")]
    synthetic = '{"class_path": "SyntheticDepth", "init_args": {"length": 4, "size": [32, 64]}}'
    words += ["--data.train", synthetic, "--data.val", synthetic, "--data.image_size", "[32,64]"]
    words += ["--data.num_workers", "0", "--data.batch_size", "2"]
    words += [f"{NETWORK}encoder", "test_efficientnet", f"{NETWORK}decoder_channels", "[8,8,8,8,8]"]
    trial = ["--trainer.fast_dev_run", "1", "--trainer.accelerator", "cpu", "--run_dir", str(tmp_path / "run")]
    assert main(["fit", *words, *trial]) == 0
    task = build_cli(DataCLI, words, run=False).model
    assert type(task.network.head).__name__ == {"thermometer": "ThermometerHead"}.get(name, "IntegerFractionalHead")
    assert (task.code_loss is None) == (name == "thermometer")
