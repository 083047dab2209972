"""FeatureHooks: one name for a layer in every form of a network, and no hook is left behind."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from depth_distill.callbacks import FakeQuant, FeatureHooks
from depth_distill.callbacks.feature_hooks import FeatureTap, find_layers, hook_points
from depth_distill.errors import ConfigError
from depth_distill.losses import AttentionTransfer
from depth_distill.models import DepthNet, GraphNetwork
from depth_distill.quantization.graph.trace import trace
from depth_distill.quantization.passes.fold import fold
from depth_distill.quantization.simulate.fake_quantize import fake_quantize, set_enabled
from depth_distill.quantization.target.target import load_target
from depth_distill.tasks import DistillationTask
from tests.callbacks import small_run
from tests.callbacks.small_run import FailAt
from tests.tasks.small_distillation import STEPS_AN_EPOCH, Losses, SmallNet, datamodule, pair, task, trainer

TARGET = load_target("per-tensor-minmax")
LAYERS = ["encoder.stem", "encoder.layer1", "encoder.layer2", "decoder.up", "head"]


def quantized(network):
    graph = fake_quantize(fold(trace(network)), TARGET)
    set_enabled(graph, False)
    return graph


def features(network, names, image):
    tap = FeatureTap(network, names)
    with torch.no_grad(), tap.recording() as found:
        network(image)
    tap.close()
    return dict(found)


def hooks_on(*networks):
    return sum(len(module._forward_hooks) for network in networks for module in network.modules())


@pytest.mark.parametrize("form", ["traced", "folded and fake-quantized", "behind a network"])
def test_a_block_is_the_same_map_in_every_form(form):
    network, image = SmallNet().double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    if form == "traced":
        # Without its quantizer there is no module behind the addition that ends layer2.
        names, graph = [name for name in LAYERS if name != "encoder.layer2"], trace(network)
    else:
        names, graph = LAYERS, quantized(network).double()
    other = GraphNetwork(graph, network) if form == "behind a network" else graph
    expected, found = features(network, names, image), features(other, names, image)
    assert list(found) == list(expected) == names
    for name in names:
        # float64, and folding moves the last digits only.
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_the_stages_of_a_timm_pyramid_are_the_same_maps_in_a_graph():
    torch.manual_seed(0)
    network = DepthNet("test_resnet", decoder_channels=(8, 8, 8, 8, 8)).double().eval()
    names = find_layers(network, "encoder.layer?", "student") + find_layers(network, "decoder.blocks.?", "student")
    assert names == [f"encoder.layer{i}" for i in range(1, 5)] + [f"decoder.blocks.{i}" for i in range(5)]
    image, graph = torch.randn(1, 3, 32, 64, dtype=torch.float64), quantized(network).double()
    expected, found = features(network, names, image), features(graph, names, image)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9, msg=name)


def test_a_block_that_ends_in_an_operator_is_hooked_at_its_quantizer():
    graph = trace(SmallNet())
    assert "encoder.layer2" not in hook_points(graph)
    with pytest.raises(ConfigError, match=r"the student has no layer 'encoder\.layer2' that can be hooked"):
        find_layers(graph, "encoder.layer2", "student")
    point = hook_points(quantized(SmallNet()))["encoder.layer2"]
    assert point.site == "encoder.layer2.add"


def test_a_glob_stays_within_its_level_and_keeps_the_networks_order():
    network = SmallNet()
    assert find_layers(network, "encoder.*", "student") == ["encoder.stem", "encoder.layer1", "encoder.layer2"]
    assert find_layers(network, "encoder.layer?", "student") == ["encoder.layer1", "encoder.layer2"]
    assert find_layers(network, "*.layer1", "student") == ["encoder.layer1"]
    assert find_layers(network, "encoder.layer[2]", "student") == ["encoder.layer2"]


def test_a_typo_names_the_nearest_layers():
    with pytest.raises(
        ConfigError, match=r"the teacher has no layer 'encoder\.layer7'.* did you mean 'encoder\.layer[12]'"
    ):
        find_layers(SmallNet(), "encoder.layer7", "teacher")


def test_nothing_is_kept_outside_of_recording():
    network = SmallNet().eval()
    tap = FeatureTap(network, ["encoder.stem"])
    with tap.recording() as first:
        network(torch.zeros(1, 3, 32, 32))
    network(torch.ones(3, 3, 32, 32))
    assert first["encoder.stem"].shape[0] == 1
    tap.close()
    assert hooks_on(network) == 0


@pytest.mark.parametrize("callbacks", [[], [FakeQuant]], ids=["float", "fake-quantized"])
def test_hooks_are_gone_after_fit(tmp_path, callbacks):
    fitted = task(features=[pair(), pair("encoder.layer2")], hints=[pair("decoder.up")])
    losses = Losses()
    trainer(tmp_path, *(each() for each in callbacks), FeatureHooks(), losses).fit(fitted, datamodule())
    assert all(step["train/feature/encoder.layer2"] > 0 for step in losses.steps)
    assert hooks_on(fitted.network, fitted.teacher) == 0
    assert fitted.student_tap is fitted.teacher_tap is None


def test_hooks_are_gone_after_an_exception_inside_fit(tmp_path):
    fitted = task(features=[pair()])
    with pytest.raises(ValueError, match="no such file"):
        trainer(tmp_path, FeatureHooks(), FailAt(2)).fit(fitted, datamodule())
    assert hooks_on(fitted.network, fitted.teacher) == 0


@pytest.mark.parametrize(
    ("features_", "message"),
    [
        ([pair("encoder.layer1", "encoder.layer9")], "the teacher has no layer 'encoder.layer9'"),
        ([pair("encoder.layer?", "encoder.*")], r"stands for 2 layers of the student .* for 3 of the teacher"),
        ([pair(), pair("encoder.layer1.last.unused")], "the student has no layer 'encoder.layer1.last.unused'"),
        ([pair("spare")], "layer spare of the student is not called in a forward pass"),
        ([pair("pooled")], r"layer pooled of the student returns a tensor \(1, 8\); expected a map"),
        ([pair("split")], "layer split returns a tuple"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_the_start_and_leaves_no_hook(tmp_path, features_, message):
    class Odd(SmallNet):
        """With a layer that is not called, one that returns vectors, and one that returns a tuple."""

        def __init__(self):
            super().__init__()
            self.spare, self.pooled, self.split = nn.ReLU(), nn.Flatten(), Split()

        def forward(self, image):
            encoded = self.encoder(image)
            self.pooled(encoded.mean((2, 3)))
            self.split(encoded)
            return self.head(self.decoder["up"](encoded))

    class Split(nn.Module):
        def forward(self, maps):
            return maps.chunk(2)

    fitted = task(network=Odd(), teacher=Odd(), features=features_)
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, FeatureHooks()).fit(fitted, datamodule())
    assert hooks_on(fitted.network, fitted.teacher) == 0


def test_a_task_that_compares_no_layers_is_left_alone(tmp_path):
    run = trainer(tmp_path, FeatureHooks(), FailAt(2))
    with pytest.raises(ValueError, match="no such file"):
        run.fit(small_run.task(), small_run.datamodule())
    run = trainer(tmp_path, FeatureHooks())
    run.fit(task(), datamodule())
    assert run.global_step == STEPS_AN_EPOCH


def test_features_without_the_callback_say_so(tmp_path):
    with pytest.raises(ConfigError, match="need the callback FeatureHooks"):
        trainer(tmp_path).fit(task(features=[pair()]), datamodule())


class Checkpointed(SmallNet):
    """Its encoder is computed a second time in the backward pass."""

    reentrant = False

    def forward(self, image):
        if self.training:
            encoded = checkpoint(self.encoder, image, use_reentrant=self.reentrant)
        else:
            encoded = self.encoder(image)
        return self.head(self.decoder["up"](encoded))


class Reentrant(Checkpointed):
    reentrant = True


def test_activation_checkpointing_changes_no_loss_and_no_weight(tmp_path):
    runs = []
    for kind in (SmallNet, Checkpointed):
        losses, fitted = Losses(), task(network=kind(), features=[pair("encoder.*")])
        for module in fitted.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # the second pass would update the statistics again
        trainer(tmp_path, FeatureHooks(), losses).fit(fitted, datamodule())
        runs.append((losses.total, fitted.state_dict()))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)  # the same sums in another order
    for name, value in runs[0][1].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, runs[1][1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpointing_would_leave_features_without_gradient(tmp_path):
    with pytest.raises(ConfigError, match="activation checkpointing needs use_reentrant=False"):
        trainer(tmp_path, FeatureHooks()).fit(task(network=Reentrant(), features=[pair()]), datamodule())


def test_layers_of_another_width_get_an_adapter_that_is_trained(tmp_path):
    fitted = task(teacher=SmallNet(width=12, seed=1), features=[pair()], hints=[pair("decoder.up")])
    before = {}

    class Keep(FeatureHooks):
        def on_train_start(self, trainer, pl_module):
            before.update(copy.deepcopy(pl_module.adapters.state_dict()))

    run = trainer(tmp_path, Keep())
    run.fit(fitted, datamodule())
    assert set(fitted.adapters) == {"feature/encoder_layer1/encoder_layer1", "hint/decoder_up/decoder_up"}
    adapter = fitted.adapters["feature/encoder_layer1/encoder_layer1"]
    assert (adapter.in_channels, adapter.out_channels, adapter.kernel_size) == (8, 12, (1, 1))
    optimized = {id(each) for group in run.optimizers[0].param_groups for each in group["params"]}
    assert all(id(each) in optimized for each in fitted.adapters.parameters())
    for name, value in fitted.adapters.state_dict().items():
        assert not torch.equal(value, before[name]), name

    # Neither the hooks nor the adapters are needed to evaluate.
    run.save_checkpoint(tmp_path / "student.ckpt")
    expected = trainer(tmp_path).validate(fitted, datamodule(), verbose=False)[0]
    fresh = task(teacher=SmallNet(width=12, seed=1), features=[pair()], hints=[pair("decoder.up")])
    evaluator = trainer(tmp_path)
    found = evaluator.validate(
        fresh, datamodule(), ckpt_path=tmp_path / "student.ckpt", verbose=False, weights_only=True
    )[0]
    assert found == expected
    assert not fresh.adapters


def test_layers_of_the_same_width_and_attention_need_no_adapter(tmp_path):
    fitted = task(
        teacher=SmallNet(width=12, seed=1), features=[pair("encoder.layer?", loss=AttentionTransfer()), pair("head")]
    )
    trainer(tmp_path, FeatureHooks()).fit(fitted, datamodule())
    assert not fitted.adapters
    assert isinstance(fitted, DistillationTask)


def test_a_feature_is_recorded_before_an_in_place_activation_writes_over_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    image = torch.randn(1, 3, 8, 8)
    found = features(net, ["0"], image)["0"]
    assert found.min() < 0
    assert torch.equal(found, net[0](image))
