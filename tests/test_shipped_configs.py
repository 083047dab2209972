"""Shipped configs: found by name, and only where no file has that name."""

from pathlib import Path

import pytest

from depth_distill.errors import ConfigError
from depth_distill.shipped_configs import find_config, shipped_folder, shipped_names, with_config_files


def test_names_are_those_of_the_files():
    names = shipped_names()
    assert {"quickstart", "teacher/resnet18", "distill/kitchen", "target/rknn"} <= set(names)
    assert all((shipped_folder() / f"{name}.yaml").is_file() for name in names)
    assert "rknn" in shipped_names("target")


def test_a_file_goes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("quickstart") == shipped_folder() / "quickstart.yaml"
    (tmp_path / "quickstart").touch()
    assert find_config("quickstart") == Path("quickstart")


@pytest.mark.parametrize(
    "word", ["mine.yaml", "folder/mine.yml", "{a: 1}", "trainer:\n  max_epochs: 1", "/a/b", "../a"]
)
def test_what_is_no_name_is_left_for_its_reader(word):
    assert find_config(word) == Path(word)


def test_an_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match="no file 'teacher/resnet81', .* did you mean 'teacher/resnet18'?"):
        find_config("teacher/resnet81")


def test_names_on_a_command_line_become_files():
    folder = shipped_folder()
    words = [
        "fit",
        "-c",
        "quickstart",
        "--config=head/thermometer",
        "--data",
        "data/kitti",
        "--data.root",
        "quickstart",
    ]
    assert with_config_files(words) == [
        *("fit", "-c", str(folder / "quickstart.yaml"), f"--config={folder / 'head/thermometer.yaml'}"),
        *("--data", str(folder / "data/kitti.yaml"), "--data.root", "quickstart"),
    ]
