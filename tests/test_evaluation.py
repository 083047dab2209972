"""Evaluator: the same metrics as validate, for any runtime, and drift against hand-computed values."""

import math

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from depth_distill import streaming
from depth_distill.data.datamodule import DepthDataModule
from depth_distill.errors import DataError
from depth_distill.evaluation import DRIFT_NAMES, Evaluator
from depth_distill.losses import CompositeLoss, SILogLoss
from depth_distill.metrics import DepthMetrics
from depth_distill.models import DepthNet
from depth_distill.models.codecs import SingleCodec
from depth_distill.tasks import DepthTask
from depth_distill.types import DepthBatch, DepthRange
from tests.data.constant_depth import ConstantDepth
from tests.data.noisy_depth import NoisyDepth
from tests.tasks.small_distillation import SmallNet, datamodule

RANGE = DepthRange(0.5, 15.0)
CODEC = SingleCodec(RANGE, "linear")


def batches(*sizes, height=4, width=6):
    """Random scenes; (2, 2, 1) unless given: the last batch is not full."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for size in sizes or (2, 2, 1):
        depth_m = 0.5 + 14 * torch.rand(size, 1, height, width, generator=generator)
        valid = torch.rand(depth_m.shape, generator=generator) > 0.3
        image = torch.rand(size, 3, height, width, generator=generator)
        made.append(DepthBatch(image, depth_m, valid, torch.arange(size)))
    return made


def constant(code):
    return lambda image: torch.full((len(image), 1, *image.shape[2:]), code)


class Grey(nn.Module):
    """A network whose code is the mean of the colours."""

    def forward(self, image):
        return image.mean(dim=1, keepdim=True)


def test_the_number_is_that_of_depth_metrics():
    evaluator, metrics = Evaluator(batches(), CODEC), DepthMetrics(RANGE)
    for batch in batches():
        metrics.update(CODEC.decode(Grey()(batch.image)), batch.depth_m, batch.valid)
    expected = {name: value.item() for name, value in metrics.compute().items()}
    assert evaluator(Grey()) == expected
    assert evaluator.names == metrics.names
    assert evaluator.protocol == metrics.protocol == "per-image mean, depth 0.5-15 m"


def test_the_number_is_that_of_validate(tmp_path):
    torch.manual_seed(0)
    net = DepthNet("mobilenetv3_small_050", decoder_channels=(16, 16, 8, 8, 8))
    task = DepthTask(net, CompositeLoss({"silog": SILogLoss()}), channels_last=False)
    data = DepthDataModule(val=ConstantDepth(6), image_size=(32, 32), batch_size=4, num_workers=0)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    (logged,) = trainer.validate(task, data, verbose=False)
    found = Evaluator(data.val_dataloader(), net.codec)(net.eval())
    for name, value in found.items():
        # Lightning logs in float32.
        assert logged[f"val/{name}"] == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_by_hand():
    depth_m = torch.tensor([2.0, 4.0, 8.0, 0.0]).view(1, 1, 2, 2)
    batch = DepthBatch(torch.zeros(1, 3, 2, 2), depth_m, depth_m > 0, torch.zeros(1))
    code = float(CODEC.encode(torch.tensor(4.0)))
    found = Evaluator([batch], CODEC)(constant(code))
    assert found["abs_rel"] == pytest.approx((1 + 0 + 0.5) / 3, rel=1e-5)
    assert found["abs_rel_2-5m"] == pytest.approx(0.5, rel=1e-5)
    assert math.isnan(found["abs_rel_0.5-2m"])


def test_images_weigh_the_same_however_they_are_batched():
    whole = batches(5)[0]
    cut = [DepthBatch(*(field[part] for field in whole)) for part in (slice(0, 1), slice(1, 5))]
    one, other = Evaluator([whole], CODEC)(Grey()), Evaluator(cut, CODEC)(Grey())
    assert one == pytest.approx(other, rel=1e-12)


def test_bands_may_be_chosen():
    evaluator = Evaluator(batches(), CODEC, bands_m=((0.5, 3.0),))
    assert "abs_rel_0.5-3m" in evaluator(Grey())
    assert len(evaluator.names) == 18


def test_drift_by_hand():
    # 14.5 m a unit of code: 0.02 from the reference is 0.29 m, everywhere.
    evaluator = Evaluator(batches(), CODEC, reference=constant(0.5))
    found = evaluator(constant(0.52))
    reference_m = 0.5 + 14.5 * 0.5
    assert found["drift_mm"] == pytest.approx(290, rel=1e-4)
    assert found["drift_p99_mm"] == pytest.approx(290, rel=1e-4)
    assert found["drift_rel"] == pytest.approx(0.29 / reference_m, rel=1e-4)
    assert evaluator.names[-3:] == DRIFT_NAMES == ("drift_mm", "drift_p99_mm", "drift_rel")


def test_drift_is_also_where_nothing_was_measured():
    made = batches()
    for batch in made:
        batch.valid[:] = False
    found = Evaluator(made, CODEC, reference=constant(0.5))(constant(0.52))
    assert math.isnan(found["abs_rel"])
    assert found["drift_mm"] == pytest.approx(290, rel=1e-4)


def test_the_99th_percentile_by_hand():
    # 200 pixels drift by 1, 2, ... 200 mm: two of them, 1 %, by more than 198 mm.
    drift_m = torch.arange(1, 201).view(1, 1, 10, 20) / 1000
    batch = DepthBatch(torch.zeros(1, 3, 10, 20), torch.ones(1, 1, 10, 20), torch.ones(1, 1, 10, 20).bool(), 0)
    evaluator = Evaluator([batch], CODEC, reference=lambda image: CODEC.encode(torch.full((1, 1, 10, 20), 5.0)))
    found = evaluator(lambda image: CODEC.encode(5.0 + drift_m))
    assert found["drift_p99_mm"] == pytest.approx(198, abs=0.01)  # float32 at 5 m
    assert found["drift_mm"] == pytest.approx(100.5, abs=0.01)
    tiny = Evaluator([DepthBatch(*(field[..., :1, :3] for field in batch[:3]), 0)], CODEC, reference=constant(0.5))
    assert tiny(constant(0.52))["drift_p99_mm"] == pytest.approx(290, rel=1e-4)  # of three pixels, the largest


def test_the_reference_does_not_drift_from_itself():
    evaluator = Evaluator(batches(), CODEC, reference=Grey())
    found = evaluator(Grey())
    assert [found[name] for name in DRIFT_NAMES] == [0.0, 0.0, 0.0]
    assert found["abs_rel"] == Evaluator(batches(), CODEC)(Grey())["abs_rel"]


def test_rows_of_batches_make_the_summary():
    evaluator = Evaluator(batches(), CODEC, reference=constant(0.5))
    rows = [evaluator.measure(position, Grey()(image)) for position, image in enumerate(evaluator.images)]
    assert [tuple(each.shape) for each in rows] == [(2, 39), (2, 39), (1, 39)]  # 9 metrics in 4 bands, 3 of drift
    assert evaluator.summarize(torch.cat(rows)) == evaluator(Grey())


def test_half_precision_codes_are_decoded_in_full():
    evaluator = Evaluator(batches(), CODEC)
    assert evaluator(constant(0.5)) == evaluator(lambda image: constant(0.5)(image).bfloat16())


def test_a_network_that_breaks_on_one_image_does_not_score_well():
    def breaks(image):
        codes = Grey()(image)
        codes[:1, :, 0, 0] = float("nan")
        return codes

    found = Evaluator(batches(), CODEC, reference=Grey())(breaks)
    assert found["abs_rel"] == math.inf
    assert found["drift_mm"] == math.inf


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="the split to evaluate on is empty"):
        Evaluator([], CODEC)


def test_it_leaves_no_gradients():
    network = nn.Conv2d(3, 1, 1)
    seen = []
    Evaluator(batches(), CODEC, reference=network)(lambda image: seen.append(network(image)) or seen[-1])
    assert not any(each.requires_grad for each in seen)


def test_with_codec_keeps_the_images_and_the_reference():
    inverse = SingleCodec(RANGE, "inverse")
    evaluator = Evaluator(batches(), CODEC, reference=constant(0.5))
    other = evaluator.with_codec(inverse)
    found = other(Grey())
    assert found["abs_rel"] == Evaluator(batches(), inverse)(Grey())["abs_rel"]
    # The reference keeps its own codec: half the linear range is 7.75 m; the inverse code of that depth is no drift.
    code = float(inverse.encode(torch.tensor(7.75)))
    assert other(constant(code))["drift_mm"] == pytest.approx(0, abs=0.01)


def test_a_split_that_fits_nowhere_gives_the_same_numbers(monkeypatch):
    def measured():
        data = datamodule(val=NoisyDepth(7), batch_size=2)
        network = SmallNet().eval()
        reference = SmallNet(seed=1).eval()
        return Evaluator(data.validation_batches(), network.codec, reference=reference)(network)

    expected = measured()
    monkeypatch.setattr(streaming, "ROOM_BYTES", 0)
    assert measured() == expected
