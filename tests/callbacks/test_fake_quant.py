"""FakeQuant: the student is trained as the NPU computes it, and judged as the tool chain will judge it."""

import copy
import dataclasses
import itertools
import json
import math

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging

from depth_distill.callbacks import FakeQuant, FeatureHooks, StopOnNonFinite
from depth_distill.errors import ConfigError
from depth_distill.evaluation import Evaluator
from depth_distill.losses import CompositeLoss, L1Loss
from depth_distill.models import GraphNetwork
from depth_distill.models.checkpoints import recorded_recipe
from depth_distill.quantization.analysis.mixed_precision import MixedNetwork, MixedPrecision
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.recipe import load_recipe
from depth_distill.quantization.simulate.calibrate import activation_quantizers, calibrate
from depth_distill.quantization.simulate.fake_quantize import quantizers, remove_fake_quant
from depth_distill.quantization.simulate.ptq import quantize_post_training, vendor_ranges
from depth_distill.quantization.target.target import load_target
from tests.data.noisy_depth import NoisyDepth
from tests.tasks.small_distillation import (
    STEPS_AN_EPOCH,
    Losses,
    SmallNet,
    StopAfter,
    datamodule,
    pair,
    same_weights,
    task,
    trainer,
)

TARGET = load_target("per-tensor-minmax")


def fake_quant(**arguments):
    """The callback on the network as it is, unless a recipe is given."""
    return FakeQuant(**{"recipe": "naive"} | arguments)


class Watch(Callback):
    """Keep the switches and ranges that each step runs with."""

    def __init__(self):
        self.enabled = []
        self.high = []
        self.weights_are_exact = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.enabled.append({quantizer.enabled for quantizer in quantizers(pl_module.network).values()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = activation_quantizers(pl_module.network)
        self.high.append({site: (float(each.low), float(each.high)) for site, each in found.items()})

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        # After the forward pass, before the step: the range is that of the weight that was rounded.
        modules = dict(pl_module.network.graph.named_modules())
        self.weights_are_exact.append(
            all(
                each.high == modules[site.removesuffix(".weight")].weight.max().clamp(min=0)
                for site, each in quantizers(pl_module.network).items()
                if each.kind == "weight" and each.enabled
            )
        )

    def moved(self, step):
        return self.high[step] != self.high[step - 1]


def fit(folder, *callbacks, epochs=1, data=None, **kwargs):
    fitted, losses, watch = task(**kwargs), Losses(), Watch()
    hooks = [FeatureHooks()] if kwargs.get("features") else []
    run = trainer(folder, *callbacks, *hooks, losses, watch, epochs=epochs)
    run.fit(fitted, data or datamodule())
    return fitted, run, losses, watch


def calibration_images(data=None):
    return [batch.image for batch in (data or datamodule()).calibration_dataloader()]


def float_depth(network):
    """Depth of the network with its quantizers taken out."""
    graph = remove_fake_quant(network.graph) if isinstance(network, GraphNetwork) else network
    with torch.no_grad():
        return network.codec.decode(graph.eval()(NoisyDepth(4, seed=3)[0].image[None].float() / 255))


class OffGrid(Callback):
    """The largest distance from its grid, in steps, that a step hands on: of rounded weights and activations."""

    def __init__(self):
        self.largest = 0.0

    def on_fit_start(self, trainer, pl_module):
        for each in quantizers(pl_module.network).values():
            each.register_forward_hook(self._measure)

    def _measure(self, quantizer, arguments, rounded):
        if quantizer.enabled and torch.is_autocast_enabled("cpu"):
            raise AssertionError(f"{quantizer.site} is rounded under autocast, which shortens it at once")
        if quantizer.enabled:
            steps = rounded.detach().double() / quantizer.constants()[0].double()
            self.largest = max(self.largest, float((steps - steps.round()).abs().max()))


class Attention(SmallNet):
    """Multiplies two activations, which autocast would do in bfloat16."""

    def forward(self, image):
        features = self.encoder(image)
        tokens = features.flatten(2)
        mixed = tokens @ (tokens.transpose(1, 2) @ tokens * 1e-3)
        return self.head(self.decoder["up"](features + mixed.view_as(features)))


@pytest.mark.parametrize("network", [SmallNet, Attention])
def test_mixed_precision_leaves_rounded_values_on_their_grid(tmp_path, network):
    watch = OffGrid()
    fitted = task(network=network())
    trainer(tmp_path, fake_quant(), watch, precision="bf16-mixed").fit(fitted, datamodule())
    assert 0 < watch.largest < 1e-3


def test_under_mixed_precision_a_step_is_that_of_float32_but_for_the_digits_of_its_gradients(tmp_path):
    weights, losses = [], []
    for precision in ("32-true", "bf16-mixed"):
        # Ground truth alone: a teacher runs in bfloat16.
        fitted, watch = task(output=None, supervised=CompositeLoss({"l1": L1Loss()}), gamma=1.0), Losses()
        trainer(tmp_path, fake_quant(), watch, precision=precision, max_steps=1).fit(fitted, datamodule())
        weights.append(torch.cat([each.detach().flatten() for each in fitted.network.parameters()]))
        losses.append(watch.steps[0]["train/loss"])
    assert losses[0] == losses[1]
    assert 0 < (weights[0] - weights[1]).norm() < 1e-3 * weights[0].norm()


def test_accumulated_batches_step_as_one_batch_does_if_ranges_are_those_of_calibration(tmp_path):
    weights = []
    for size, count in ((4, 1), (2, 2)):
        fitted = task()
        data = datamodule(batch_size=size)
        trainer(tmp_path, fake_quant(ranges="calibration"), accumulate_grad_batches=count).fit(fitted, data)
        weights.append(torch.cat([each.detach().flatten() for each in fitted.network.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-6)


def test_float_epochs_run_in_mixed_precision(tmp_path):
    _, _, exact, _ = fit(tmp_path, fake_quant(start_epoch=1))
    mixed, losses = task(), Losses()
    trainer(tmp_path, fake_quant(start_epoch=1), losses, precision="bf16-mixed").fit(mixed, datamodule())
    assert losses.total != exact.total
    assert losses.total == pytest.approx(exact.total, rel=0.05)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_in_half_the_bits_are_refused(tmp_path, precision):
    with pytest.raises(ConfigError, match=f"trainer.precision is {precision}, .* give .*-mixed or 32-true"):
        trainer(tmp_path, fake_quant(), precision=precision).fit(task(), datamodule())


class Metres(SmallNet):
    def forward(self, image):
        return 0.5 + 14.5 * super().forward(image)


class Pair(SmallNet):
    def forward(self, image):
        codes = super().forward(image)
        return codes, codes


@pytest.mark.parametrize(
    ("network", "message"),
    [(Metres, r"returned values from .*, expected codes in \[0, 1\]"), (Pair, "returned a tuple of 2 for images")],
)
def test_a_network_that_returns_something_else_than_codes_is_refused_before_training(tmp_path, network, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, fake_quant()).fit(task(network=network()), datamodule())


class DependsOnItsSize(SmallNet):
    """Takes another way for large images; a trace, which knows no size, takes that for small ones."""

    def forward(self, image):
        width = image.shape[-1]
        codes = super().forward(image)
        return codes * 0.5 if isinstance(width, int) and width > 16 else codes


def test_a_graph_that_is_another_function_than_the_network_is_refused_before_training(tmp_path):
    fitted = task(network=DependsOnItsSize(), teacher=SmallNet(seed=1))
    before = copy.deepcopy(fitted.network.state_dict())
    fitted.network.encoder.stem.eval()  # as somebody who freezes its statistics
    with pytest.raises(ConfigError, match="the traced graph is another function than the network"):
        trainer(tmp_path, fake_quant()).fit(fitted, datamodule())
    same_weights(before, fitted.network.state_dict())  # the check runs in evaluation mode: statistics stay
    assert fitted.network.training
    assert not fitted.network.encoder.stem.training


def test_the_graph_is_there_before_the_optimizer(tmp_path):
    fitted, run, _, _ = fit(tmp_path, fake_quant())
    assert isinstance(fitted.network, GraphNetwork)
    assert not [name for name, _ in fitted.network.named_modules() if "norm" in name.lower()]
    optimized = {id(each) for group in run.optimizers[0].param_groups for each in group["params"]}
    assert optimized == {id(each) for each in fitted.network.parameters()}
    assert fitted.network.stride == SmallNet().stride
    assert fitted.network.depth_range == SmallNet().depth_range


def test_before_its_epoch_the_network_is_float_and_after_it_is_not(tmp_path):
    _, _, losses, watch = fit(tmp_path, fake_quant(start_epoch=1), epochs=3)
    assert watch.enabled == [{False}] * STEPS_AN_EPOCH + [{True}] * 2 * STEPS_AN_EPOCH
    _, _, late, _ = fit(tmp_path, fake_quant(start_epoch=3), epochs=3)
    assert losses.total[:STEPS_AN_EPOCH] == late.total[:STEPS_AN_EPOCH]
    assert losses.total[STEPS_AN_EPOCH] != late.total[STEPS_AN_EPOCH]


def test_a_float_epoch_is_that_of_the_folded_network(tmp_path):
    _, _, expected, _ = fit(tmp_path, network=GraphNetwork(fold(trace(SmallNet())), SmallNet()))
    _, _, found, _ = fit(tmp_path, fake_quant(start_epoch=1))
    assert found.total == pytest.approx(expected.total, rel=1e-6)


@pytest.mark.parametrize("ranges", ["batches", "calibration"])
def test_activation_ranges_stop_at_the_freeze(tmp_path, ranges):
    _, _, _, watch = fit(tmp_path, fake_quant(ranges=ranges, start_epoch=1, freeze_epoch=3), epochs=4)
    steps = range(1, 4 * STEPS_AN_EPOCH)
    if ranges == "batches":
        # From the second step that is quantized on, every one moves them.
        expected = [step for step in steps if STEPS_AN_EPOCH <= step < 3 * STEPS_AN_EPOCH]
    else:
        expected = [STEPS_AN_EPOCH, 2 * STEPS_AN_EPOCH]  # the first step of an epoch
    assert [step for step in steps if watch.moved(step)] == expected
    assert all(watch.weights_are_exact)


def test_ranges_begin_with_the_calibration_images(tmp_path):
    fitted = task()
    callback = fake_quant(ranges="calibration")
    started = {}

    class AtStart(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0:
                started.update(
                    {site: each.high.clone() for site, each in activation_quantizers(fitted.network).items()}
                )
                started["expected"] = calibrate(fitted.network.graph, calibration_images(), progress=False).ranges

    trainer(tmp_path, callback, AtStart()).fit(fitted, datamodule())
    expected = started.pop("expected")
    assert set(started) == set(expected)
    for site, (_, high) in expected.items():
        assert started[site].item() == pytest.approx(max(high, 0.0), rel=1e-6), site


def test_batches_move_ranges_by_the_momentum(tmp_path):
    # Calibrated on darker images, the input's range moves towards that of the batches by 1 % a step.
    data = datamodule(calibration=Darker(6))
    fitted, _, _, watch = fit(tmp_path, fake_quant(ranges="batches"), data=data)
    site = next(site for site, each in activation_quantizers(fitted.network).items() if each.kind == "input")
    start = max(image.max().item() for image in calibration_images(data))
    highs = [batch.image.max().item() for batch in datamodule().train_dataloader()]
    expected = start
    for step, high in enumerate(highs):
        expected += 0.01 * (high - expected)
        assert watch.high[step][site][1] == pytest.approx(expected, rel=1e-5)
    assert highs[0] > start


class Darker(NoisyDepth):
    def load(self, index):
        sample = super().load(index)
        return sample._replace(image=sample.image // 2)


def test_learned_ranges_have_gradients_and_are_saved(tmp_path):
    kinds = ("input", "weight", "activation", "output")
    fitted, run, _, _ = fit(tmp_path, fake_quant(learnable=kinds, freeze_epoch=2), epochs=3)
    optimized = {id(each) for group in run.optimizers[0].param_groups for each in group["params"]}
    scales = {name: each for name, each in fitted.network.named_parameters() if name.endswith(".scale")}
    assert len(scales) == len(quantizers(fitted.network))
    assert all(id(each) in optimized for each in scales.values())

    state = {name: value.clone() for name, value in fitted.state_dict().items() if name.endswith(("scale", "point"))}
    run.save_checkpoint(tmp_path / "learned.ckpt")
    other = task()
    trainer(tmp_path, fake_quant(learnable=kinds)).validate(
        other, datamodule(), ckpt_path=tmp_path / "learned.ckpt", verbose=False, weights_only=True
    )
    loaded = other.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_learned_ranges_move_until_the_freeze(tmp_path):
    seen = []

    class Scales(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append({site: float(each.scale) for site, each in activation_quantizers(pl_module.network).items()})

    fit(tmp_path, fake_quant(learnable=("activation",), freeze_epoch=2), Scales(), epochs=3)
    moving, kept = seen[: 2 * STEPS_AN_EPOCH], seen[2 * STEPS_AN_EPOCH - 1 :]
    assert all(one != other for one, other in itertools.pairwise(moving))
    learned = [site for site in seen[0] if site not in ("image", "head.1")]
    assert all(step[site] == kept[0][site] for step in kept for site in learned)


@pytest.mark.parametrize("calibrator", ["minmax", "percentile"])
def test_the_vendor_number_is_that_of_ptq_on_the_same_weights(tmp_path, calibrator, monkeypatch):
    target = dataclasses.replace(TARGET, calibrator=calibrator)
    monkeypatch.setattr("depth_distill.callbacks.fake_quant.load_target", lambda name: target)
    fitted, run, _, _ = fit(tmp_path, fake_quant(), epochs=2, features=[pair()])
    logged = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("vendor/")}
    data = datamodule()
    exported = quantize_post_training(
        remove_fake_quant(fitted.network.graph), target, calibration_images(), progress=False
    )
    expected = Evaluator(data.val_dataloader(), fitted.network.codec)(exported)
    assert set(logged) == {f"vendor/{name}" for name in expected}
    for name, value in expected.items():
        # Training keeps images in channels-last memory, where convolutions add in another order; a code that flips
        # moves one of 1024 pixels by 1.3 %.
        assert logged[f"vendor/{name}"] == pytest.approx(value, rel=1e-4, nan_ok=True), name
    assert logged["vendor/abs_rel"] != run.callback_metrics["val/abs_rel"].item()


def test_the_vendor_number_is_there_while_training_is_still_float(tmp_path):
    fitted, run, _, watch = fit(tmp_path, fake_quant(start_epoch=5))
    assert watch.enabled == [{False}] * STEPS_AN_EPOCH
    assert {each.enabled for each in quantizers(fitted.network).values()} == {False}
    # In INT8 one code is 1.3 % of depth: a network that has learned next to nothing yet differs, if not by much.
    vendor, plain = run.callback_metrics["vendor/abs_rel"], run.callback_metrics["val/abs_rel"]
    assert vendor != plain
    assert vendor == pytest.approx(plain.item(), rel=0.1)


@pytest.mark.parametrize("learnable", [(), ("weight", "activation")])
@pytest.mark.parametrize("measured", [True, False])
def test_vendor_ranges_come_and_go(tmp_path, learnable, measured):
    fitted, _, _, _ = fit(tmp_path, fake_quant(learnable=learnable, start_epoch=0 if measured else 9))
    graph = fitted.network.graph.eval()
    image = calibration_images()[0]
    ranges = calibrate(graph, calibration_images(), progress=False).ranges
    with torch.no_grad():
        next(graph.parameters()).mul_(1.5)  # ranges of weights that are learned do not follow
    state = copy.deepcopy(graph.state_dict())
    switches = {site: (each.enabled, each.tracking, each.has_range) for site, each in quantizers(graph).items()}

    def unchanged():
        for name, value in graph.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0, equal_nan=True, msg=name)
        found = {site: (each.enabled, each.tracking, each.has_range) for site, each in quantizers(graph).items()}
        return found == switches

    expected = quantize_post_training(remove_fake_quant(graph), TARGET, calibration_images(), progress=False)
    calibrated = {site: (each.low.clone(), each.high.clone()) for site, each in quantizers(expected).items()}
    with torch.no_grad():
        with vendor_ranges(graph, ranges):
            graph(image)
            assert all(each.enabled for each in quantizers(graph).values())
            weights = {site for site, each in quantizers(graph).items() if each.kind == "weight"}
            for site in weights:
                assert torch.equal(quantizers(graph)[site].high, calibrated[site][1]), site
        assert unchanged()
        with pytest.raises(KeyError, match="no such thing"), vendor_ranges(graph, ranges):
            raise KeyError("no such thing")
    assert unchanged()


@pytest.mark.parametrize(
    "recipe",
    [["fold", "equalize"], ["fold", {"stress": {"sigma": 0.8}}], ["fold", {"stress": {"sigma": 0.8}}, "equalize"]],
    ids=["equalized", "stressed", "both"],
)
def test_equalization_and_stress_leave_the_float_function(tmp_path, recipe):
    fitted = task()
    expected = float_depth(fitted.network.eval())
    plain = fold(trace(fitted.network))
    fitted.network.train()
    run = trainer(tmp_path, fake_quant(recipe=recipe), epochs=1, limit_train_batches=0, limit_val_batches=0)
    callback = run.callbacks[0]
    callback.prepare(fitted, calibration_images())
    # Rounding of rescaled weights, amplified by the network.
    torch.testing.assert_close(float_depth(fitted.network), expected, rtol=1e-4, atol=0)
    weights = dict(fitted.network.graph.named_parameters())
    assert any(not torch.allclose(weights[name], value) for name, value in plain.named_parameters())


def test_only_the_structure_is_made_for_a_checkpoint(tmp_path):
    fitted, expected = task(), task()
    fake_quant(recipe=["fold", {"stress": {"sigma": 0.8}}, "equalize"]).prepare(fitted)
    fake_quant().prepare(expected)
    same_weights(
        {name: value for name, value in fitted.state_dict().items() if "scale" not in name},
        {name: value for name, value in expected.state_dict().items() if "scale" not in name},
    )


@pytest.mark.parametrize("source", ["list", "file"])
def test_high_precision_layers_stay_in_half_precision(tmp_path, source):
    layers = ("encoder.stem.0", "head.0")
    if source == "list":
        given = list(layers)
    else:
        chosen = MixedNetwork(layers, 0.04, 0.01)
        found = MixedPrecision("fp16", 0.05, chosen, True, (chosen,), 0.03, 0.01, 0.02)
        given = tmp_path / "mixed_precision.json"
        given.write_text(json.dumps(found.to_dict()))
    fitted, _, losses, _ = fit(tmp_path, fake_quant(high_precision_layers=given))
    in_half = {site for site, each in quantizers(fitted.network).items() if each.in_half}
    assert {f"{layer}.weight" for layer in layers} <= in_half
    assert "encoder.layer1.body.0.weight" not in in_half
    assert all(math.isfinite(loss) for loss in losses.total)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "is not a result of depth-distill mixed-precision"),
        ("[]", "is not a result of"),
    ],
)
def test_a_file_that_lists_no_layers(tmp_path, content, message):
    path = tmp_path / "mixed_precision.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"high_precision_layers: .*mixed_precision\.json {message}"):
        fake_quant(high_precision_layers=path).prepare(task())


def test_an_unknown_high_precision_layer_and_a_target_without_the_format_are_refused():
    with pytest.raises(ConfigError, match=r"encoder\.stem\.0"):
        fake_quant(high_precision_layers=["encoder.stem.9"]).prepare(task())
    target = load_target("per-tensor-minmax")
    callback = fake_quant(high_precision_layers=["head.0"])
    callback.target = dataclasses.replace(target, capabilities=dataclasses.replace(target.capabilities, fp16="no"))
    with pytest.raises(ConfigError, match="capabilities.fp16"):
        callback.prepare(task())


def test_hooks_that_were_set_before_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="FakeQuant comes after FeatureHooks.*put it before"):
        trainer(tmp_path, FeatureHooks(), fake_quant()).fit(task(features=[pair()]), datamodule())


@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_ranges_cannot_freeze_before_they_are_measured(freeze):
    with pytest.raises(ConfigError, match=f"freeze_epoch is {freeze}, but .* start_epoch 2: freeze later"):
        fake_quant(start_epoch=2, freeze_epoch=freeze)


def test_without_a_data_module_it_says_what_it_calibrates_on(tmp_path):
    with pytest.raises(ConfigError, match="FakeQuant needs a DepthDataModule"):
        trainer(tmp_path, fake_quant()).fit(task(), datamodule().train_dataloader())


BATCHES, CALIBRATION = {"ranges": "batches"}, {"ranges": "calibration", "start_epoch": 1}
LEARNED = {"learnable": ("weight", "activation"), "freeze_epoch": 2}
STRESS = {"stress": {"sigma": 0.5}}
EQUALIZED = {"recipe": ["fold", STRESS, "equalize"], "high_precision_layers": ["head.0"]}
ROUNDED = {"recipe": ["fold", "equalize", {"adaround": {"iterations": 2}}, "bias_correct"]}


@pytest.mark.parametrize(
    ("kwargs", "steps"),
    [
        pytest.param(BATCHES, STEPS_AN_EPOCH + 2, id="batches in mid-epoch"),
        pytest.param(CALIBRATION, STEPS_AN_EPOCH, id="calibration after an epoch"),
        pytest.param(CALIBRATION, STEPS_AN_EPOCH + 2, id="calibration in mid-epoch"),
        pytest.param(LEARNED, STEPS_AN_EPOCH + 2, id="learned in mid-epoch"),
        pytest.param(EQUALIZED, STEPS_AN_EPOCH + 2, id="equalized in mid-epoch"),
        pytest.param(ROUNDED, STEPS_AN_EPOCH + 2, id="rounded in mid-epoch"),
    ],
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, kwargs, steps):
    def callbacks():
        return [fake_quant(**kwargs), FeatureHooks()]

    whole = task(features=[pair()])
    trainer(tmp_path, *callbacks(), epochs=3).fit(whole, datamodule())

    with pytest.raises(InterruptedError):
        trainer(tmp_path, *callbacks(), StopAfter(tmp_path, steps), epochs=3).fit(task(features=[pair()]), datamodule())
    torch.rand(17)  # a new process would not have the old generator's state
    resumed = task(features=[pair()])
    run = trainer(tmp_path, *callbacks(), epochs=3)
    run.fit(resumed, datamodule(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)

    assert run.global_step == 3 * STEPS_AN_EPOCH
    same_weights(whole.state_dict(), resumed.state_dict())
    for site, quantizer in quantizers(whole.network).items():
        other = quantizers(resumed.network)[site]
        assert (quantizer.enabled, quantizer.tracking) == (other.enabled, other.tracking), site


@pytest.mark.parametrize("learnable", [(), ("weight", "activation")], ids=["tracked", "learned"])
def test_a_checkpoint_is_evaluated_as_it_was_in_training(tmp_path, learnable):
    def callback():
        return fake_quant(learnable=learnable)

    _, run, _, _ = fit(tmp_path, callback(), epochs=2)
    run.save_checkpoint(tmp_path / "student.ckpt")
    logged = {
        name: value.item() for name, value in run.callback_metrics.items() if name.split("/")[0] in ("val", "vendor")
    }
    given = {"datamodule": datamodule(), "ckpt_path": tmp_path / "student.ckpt", "weights_only": True}

    fresh = task()
    (found,) = trainer(tmp_path, callback()).validate(fresh, **given, verbose=False)
    assert found == logged
    assert {each.enabled for each in quantizers(fresh.network).values()} == {True}

    (tested,) = trainer(tmp_path, callback()).test(task(), **given, verbose=False)  # the same split here
    assert tested == {name.replace("val/", "test/"): value for name, value in logged.items()}

    fresh = task()
    predicted = trainer(tmp_path, callback()).predict(fresh, **given)
    codes = fresh.network.codec.encode(torch.cat(predicted))
    step = quantizers(fresh.network)["head.1"].scale
    # Codes come from depth and back through exp and log.
    torch.testing.assert_close((codes / step).round() * step, codes, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_records_its_recipe_and_is_resumed_with_no_other(tmp_path):
    _, run, _, _ = fit(tmp_path, fake_quant(recipe="equalize"))
    run.save_checkpoint(tmp_path / "student.ckpt")
    assert recorded_recipe(tmp_path / "student.ckpt") == load_recipe("equalize").to_entries()
    given = {"datamodule": datamodule(), "ckpt_path": tmp_path / "student.ckpt", "weights_only": True}
    with pytest.raises(ConfigError, match="trained behind the recipe .*equalize.*, but FakeQuant is given naive"):
        trainer(tmp_path, fake_quant(), epochs=3).fit(task(), **given)
    trainer(tmp_path, fake_quant(recipe=["fold", "equalize"]), epochs=3).fit(task(), **given)  # the same by content


def test_a_teacher_computes_what_it_did_whatever_the_recipe_rounds(tmp_path):
    fitted = task(features=[pair()])
    fitted.start()
    image = calibration_images()[0]
    with torch.no_grad():
        expected = fitted.teacher.predict_depth(image)
    fake_quant(**ROUNDED).prepare(fitted, calibration_images())
    with torch.no_grad():
        torch.testing.assert_close(fitted.teacher.predict_depth(image), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["uint8_input", "pair", "split_channels", "split_weights", "clip_ranges"])
def test_what_belongs_to_the_export_is_refused_in_training(name):
    with pytest.raises(ConfigError, match=f"{name} belongs to the export"):
        fake_quant(recipe=["fold", name])


def test_a_thermometer_trains_as_any_head_does(tmp_path):
    fitted, run, _, _ = fit(tmp_path, fake_quant(recipe=["fold", {"thermometer": {"num_codes": 4}}]))
    assert fitted.network.codec.channels == 4
    assert math.isfinite(run.callback_metrics["val/abs_rel"])


def test_a_checkpoint_of_the_float_epochs_is_evaluated_in_float(tmp_path):
    _, run, _, _ = fit(tmp_path, fake_quant(start_epoch=4))
    run.save_checkpoint(tmp_path / "student.ckpt")
    fresh = task()
    (found,) = trainer(tmp_path, fake_quant(start_epoch=4)).validate(
        fresh, datamodule(), ckpt_path=tmp_path / "student.ckpt", verbose=False, weights_only=True
    )
    assert found["val/abs_rel"] == run.callback_metrics["val/abs_rel"].item()
    assert {each.enabled for each in quantizers(fresh.network).values()} == {False}


def test_the_sanity_check_needs_no_ranges(tmp_path):
    run = trainer(tmp_path, fake_quant(), num_sanity_val_steps=1)
    run.fit(task(), datamodule())
    assert run.global_step == STEPS_AN_EPOCH


@pytest.mark.parametrize("options", [{}, {"update_starting_at_epoch": 0}, {"update_starting_at_step": 2}])
def test_averaging_before_there_are_ranges_is_refused(tmp_path, options):
    averaging = EMAWeightAveraging(decay=0.9, **options)
    run = trainer(tmp_path, fake_quant(start_epoch=1), averaging, epochs=2)
    with pytest.raises(ConfigError, match="EMAWeightAveraging averages from before start_epoch 1 of FakeQuant"):
        run.fit(task(), datamodule())
    assert run.global_step == 0


@pytest.mark.parametrize(("start", "options"), [(0, {}), (1, {"update_starting_at_step": STEPS_AN_EPOCH})])
def test_averages_of_ranges_are_finite_and_kept(tmp_path, start, options):
    fitted, averaging = task(), EMAWeightAveraging(decay=0.9, **options)
    run = trainer(tmp_path, fake_quant(start_epoch=start), averaging, StopOnNonFinite(), epochs=3)
    run.fit(fitted, datamodule())
    run.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    assert math.isfinite(run.callback_metrics["vendor/abs_rel"])
    assert math.isfinite(run.callback_metrics["val/abs_rel"])


@pytest.mark.parametrize("limits", [{"max_time": "00:00:10:00", "epochs": None}, {"max_steps": 6, "epochs": 10}])
def test_when_ranges_come_is_known_whatever_ends_the_run(tmp_path, limits):
    averaging = EMAWeightAveraging(decay=0.9, update_starting_at_step=1)
    run = trainer(tmp_path, fake_quant(start_epoch=1), averaging, **limits)
    with pytest.raises(ConfigError, match="averages from before start_epoch 1"):
        run.fit(task(), datamodule())


def test_averaging_comes_after_it(tmp_path):
    run = trainer(tmp_path, EMAWeightAveraging(decay=0.9), fake_quant())
    with pytest.raises(ConfigError, match="weight averaging comes after FakeQuant"):
        run.fit(task(), datamodule())
