"""score_settings: the numbers of a plain loop, resumable, and never from rows of another network or setting."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from depth_distill.errors import ConfigError
from depth_distill.quantization.analysis.switching import score_settings
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.simulate.calibrate import apply_calibration, calibrate
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, quantizers
from tests.quantization.small_case import (
    SITES,
    TARGET,
    SmallNet,
    drift,
    images,
    quantized_net,
    switched,
)

SETTINGS = {
    "everything": frozenset(SITES),
    "nothing": frozenset(),
    "one": frozenset(["conv1.weight"]),
    "half": frozenset(SITES[::2]),
    "all but one": frozenset(SITES) - {"act2"},
}


def score(quantized, scorer, settings=SETTINGS, resume=None):
    return score_settings(quantized, scorer, settings, resume, progress=False)


def interrupt(scorer, position):
    """Raise, as Ctrl-C would, at the first measurement of a batch."""
    measure = scorer.measure

    def measure_or_stop(where, codes):
        if where == position:
            raise InterruptedError
        return measure(where, codes)

    scorer.measure = measure_or_stop
    return scorer


def test_the_scores_are_those_of_one_full_evaluation_a_setting():
    quantized, scorer = quantized_net(), drift(batches=images(2, 2, 1))
    found = score(quantized, scorer)
    assert list(found) == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert found[name] == scorer(switched(quantized, setting)), name
    assert found["nothing"] == {"abs_rel": 0.0, "worst": 0.0}
    assert found["everything"]["abs_rel"] > found["one"]["abs_rel"] > 0


def test_it_costs_two_whole_runs_a_batch_and_what_the_settings_reach():
    quantized = quantized_net()
    ran = []
    for name in ("stem", "head"):  # the copy inside keeps hooks
        quantized.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    score(quantized, drift(), {"last": frozenset(["head.weight"]), "all but last": frozenset(SITES) - {"head.weight"}})
    assert [ran.count(name) for name in ("stem", "head")] == [2 * 2, 2 * 4]  # by two batches


def test_the_network_keeps_its_switches_and_ranges():
    quantized = quantized_net()
    quantizers(quantized)["act"].enabled = False
    before = copy.deepcopy(quantized.state_dict())
    score(quantized, drift())
    assert [site for site, each in quantizers(quantized).items() if not each.enabled] == ["act"]
    torch.testing.assert_close(quantized.state_dict(), before, rtol=0, atol=0)


def test_an_interrupted_call_goes_on_with_the_batch_it_stopped_at(tmp_path):
    quantized = quantized_net()
    whole = score(quantized, drift(batches=images(2, 1, 2)))
    stopped = interrupt(drift(batches=images(2, 1, 2)), position=1)
    with pytest.raises(InterruptedError):
        score(quantized, stopped, resume=tmp_path / "kept")
    assert stopped.measured == [0] * len(SETTINGS)
    resumed = drift(batches=images(2, 1, 2))
    assert score(quantized, resumed, resume=tmp_path / "kept") == whole
    assert resumed.measured == [1] * len(SETTINGS) + [2] * len(SETTINGS)
    again = drift(batches=images(2, 1, 2))
    assert score(quantized, again, resume=tmp_path / "kept") == whole
    assert again.measured == []


def widen_a_range(quantized, scorer):
    quantizers(quantized)["act1"].set_range(0.0, 9.0)


def change_a_weight(quantized, scorer):
    with torch.no_grad():
        quantized.get_submodule("conv2").weight[0, 0, 0, 0] += 1e-3


def leave_a_layer_in_half(quantized, scorer):
    quantizers(quantized)["head.weight"].in_half = True


def use_16_bits(quantized, scorer):
    quantizer = quantizers(quantized)["act"]
    quantizer.use_format(dataclasses.replace(quantizer.tensor_format, dtype="uint16"))


def cut_other_batches(quantized, scorer):
    whole = torch.cat(scorer.images)
    scorer.images, scorer.expected = whole.split(1), torch.cat(scorer.expected).split(1)


def use_other_images(quantized, scorer):
    scorer.images = (scorer.images[0] + 0.1, *scorer.images[1:])


def rename_a_metric(quantized, scorer):
    scorer.names = ("abs_rel", "largest")


@pytest.mark.parametrize(
    "change",
    [
        widen_a_range,
        change_a_weight,
        leave_a_layer_in_half,
        use_16_bits,
        cut_other_batches,
        use_other_images,
        rename_a_metric,
    ],
)
def test_rows_of_something_else_are_not_used(change, tmp_path):
    quantized = quantized_net()
    score(quantized, drift(), resume=tmp_path)
    scorer = drift()
    change(quantized, scorer)
    found = score(quantized, scorer, resume=tmp_path)
    assert len(scorer.measured) == len(scorer.images) * len(SETTINGS)
    assert found == score(quantized, scorer)


def test_rows_of_other_settings_are_not_used(tmp_path):
    quantized, fewer = quantized_net(), {"one": frozenset(["act"])}
    score(quantized, drift(), resume=tmp_path)
    scorer = drift()
    assert score(quantized, scorer, fewer, resume=tmp_path) == score(quantized, drift(), fewer)
    assert scorer.measured == [0, 1]


def test_a_site_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigError, match="no quantizer is called 'conv3.weight'; did you mean 'conv"):
        score(quantized_net(), drift(), {"typo": frozenset(["conv3.weight"])})


def test_a_network_without_ranges_is_refused():
    with pytest.raises(ConfigError, match="the quantizer image has no range yet"):
        score(fake_quantize(trace(SmallNet()), TARGET), drift(), {"nothing": frozenset()})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(ConfigError, match="kept is a file, expected a folder for unfinished work"):
        score(quantized_net(), drift(), resume=tmp_path / "kept")


def test_a_layer_that_is_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 1)

        def forward(self, image):
            return self.head(self.conv(self.conv(image).relu())).sigmoid()

    quantized = fake_quantize(trace(Twice()), TARGET)
    apply_calibration(calibrate(quantized, images(), progress=False), quantized)
    every = [module.site for module in quantized.modules() if isinstance(module, FakeQuantizer)]
    settings = {site: frozenset([site]) for site in every} | {
        f"not {site}": frozenset(every) - {site} for site in every
    }
    scorer = drift(Twice())
    found = score(quantized, scorer, settings)
    for name, setting in settings.items():
        assert found[name] == scorer(switched(quantized, setting)), name
