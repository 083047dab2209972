"""Names are listed without importing what has them; here they are compared with what is imported."""

import inspect
import json

import pytest
import timm

import depth_distill.data
import depth_distill.losses
import depth_distill.models
from depth_distill.cli import main
from depth_distill.commands import list as listing
from depth_distill.export.backends.backends import BACKENDS
from depth_distill.quantization.target.target import load_target, target_names


def names(package, base=object):
    exported = {name: getattr(package, name) for name in package.__all__}
    return sorted(
        name
        for name, each in exported.items()
        if inspect.isclass(each) and issubclass(each, base) and not inspect.isabstract(each)
    )


def test_lists_are_what_there_is():
    assert set(listing.encoders()) == set(timm.list_models())
    assert list(listing.targets()) == list(target_names())
    assert set(listing.backends()) == set(BACKENDS)
    assert list(listing.losses()) == names(depth_distill.losses)
    assert list(listing.datasets()) == names(depth_distill.data, depth_distill.data.DepthDataset)
    assert list(listing.heads()) == names(depth_distill.models, depth_distill.models.DepthHead)


@pytest.mark.parametrize("kind", [kind for kind in listing.KINDS if kind not in ("encoders", "recipes")])
def test_each_name_has_a_line_in_plain_words(kind, capsys):
    assert main(["list", kind]) == 0
    for line in capsys.readouterr().out.splitlines():
        _, words = line.split(maxsplit=1)
        assert words
        assert ":func:" not in words
        assert "``" not in words


def test_a_pattern_picks_and_json_has_the_same(tmp_path, capsys):
    assert main(["list", "targets", "per-*", "--json", str(tmp_path / "targets.json")]) == 0
    found = json.loads((tmp_path / "targets.json").read_text())
    assert [each["name"] for each in found] == ["per-channel", "per-tensor-minmax"]
    assert found[0]["description"] == load_target("per-channel").description
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["per-channel", "per-tensor-minmax"]


def test_nothing_found_is_said_and_no_error(capsys):
    assert main(["list", "encoders", "resnet999*"]) == 0
    assert capsys.readouterr().err == "no encoders of the name resnet999*\n"


def test_recipes_come_from_their_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(listing, "shipped_folder", lambda: tmp_path)
    assert main(["list", "recipes"]) == 0
    assert capsys.readouterr().out == ""
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "naive.yaml").write_text("description: what a tool chain does\npasses: [fold]\n")
    assert main(["list", "recipes"]) == 0
    assert capsys.readouterr().out == "naive  what a tool chain does\n"
