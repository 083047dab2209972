"""Features of inner layers, by the name of the layer, for the losses that compare them."""

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from depth_distill.errors import ConfigError
from depth_distill.quantization.graph.trace import traced_graph
from depth_distill.quantization.simulate.fake_quant import FakeQuantizer
from depth_distill.suggestions import did_you_mean
from depth_distill.tasks import DistillationTask


def hook_points(network: nn.Module) -> dict[str, nn.Module]:
    """The modules whose output can be hooked, by the name of the layer.

    In a graph only leaf modules are called. The name of a block (``encoder.layer4``) then stands for the module that
    computes the last value of the block, so that the same name works for a network and for its graph. Where the last
    operator has no module, such as an addition, the name stands for the quantizer of its result; without a quantizer
    the block has no entry.
    """
    graph = traced_graph(network)
    if graph is None:
        return {name: module for name, module in network.named_modules() if name}
    modules = dict(graph.named_modules())
    points: dict[str, nn.Module | None] = {}
    for node in graph.graph.nodes:
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op not in ("call_module", "call_function", "call_method") or isinstance(module, FakeQuantizer):
            continue
        if module is None:
            users = [modules.get(str(user.target)) for user in node.users if user.op == "call_module"]
            module = next((user for user in users if isinstance(user, FakeQuantizer)), None)
            path = ""
        else:
            path = str(node.target)
        scopes = {path} | {scope for scope, _ in node.meta.get("nn_module_stack", {}).values()}
        scopes |= {path.rsplit(".", depth)[0] for depth in range(1, path.count(".") + 1)}
        points |= dict.fromkeys(scopes - {""}, module)
    return {name: module for name, module in points.items() if module is not None}


def find_layers(network: nn.Module, pattern: str, whose: str) -> list[str]:
    """Names of the layers that a name or glob (``decoder.blocks.?``) matches, in the order of the network.

    Raises:
        ConfigError: none matches; the message lists the nearest names.
    """
    names = list(hook_points(network))
    if pattern in names:
        return [pattern]
    # Unlike in fnmatch, a star stays within one level, as in a file system.
    depth = pattern.count(".")
    found = [name for name in names if name.count(".") == depth and fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(f"the {whose} has no layer {pattern!r} that can be hooked; {did_you_mean(pattern, names)}")
    return found


class FeatureTap:
    """Hooks on named layers that keep the outputs of these layers while :meth:`recording`."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        points = hook_points(network)
        self._features: dict[str, Tensor] | None = None
        self._handles: list[RemovableHandle] = [
            points[name].register_forward_hook(partial(self._keep, name)) for name in names
        ]

    @contextmanager
    def recording(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield a mapping from layer names to features ``(B, C, h, w)``, which fills while layers run.

        Outside of the block nothing is kept: activation checkpointing runs layers a second time in the backward pass.
        """
        features: dict[str, Tensor] = {}
        self._features = features
        try:
            yield features
        finally:
            self._features = None

    def close(self) -> None:
        """Remove the hooks."""
        while self._handles:
            self._handles.pop().remove()

    def _keep(self, name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._features is None:
            return
        if not isinstance(output, Tensor):
            raise ConfigError(f"layer {name} returns a {type(output).__name__}; only layers that return a tensor fit")
        # An in-place activation behind the layer (nn.ReLU(inplace=True), +=) would write over the tensor itself.
        self._features[name] = output.clone()


class FeatureHooks(Callback):
    """Hook the layers that a :class:`~depth_distill.tasks.DistillationTask` compares.

    The command line adds this callback to every run; elsewhere add it yourself. Hooks are set at the start of ``fit``,
    before the optimizer is built, because pairs of layers with different numbers of channels get an adapter. They are
    removed at the end of ``fit`` and on exceptions. With other tasks the callback does nothing.

    Raises:
        ConfigError: at the start of ``fit``: a name or glob that no layer matches, patterns that match different
            numbers of layers in teacher and student, or a layer that does not return a map ``(B, C, h, w)``.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not isinstance(pl_module, DistillationTask):
            return
        task = pl_module
        task.start()
        pairs = task.resolve_pairs(find_layers)
        try:
            task.student_tap = FeatureTap(task.network, [pair.student for pair in pairs])
            task.teacher_tap = FeatureTap(task.teacher, [pair.teacher for pair in pairs])
            datamodule = getattr(trainer, "datamodule", None)
            size = datamodule.image_size if datamodule is not None else (4 * task.network.stride,) * 2
            task.match_features(*_features_of(task, torch.zeros(1, 3, *size, device=task.device)))
        except BaseException:
            self._close(pl_module)
            raise

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close(pl_module)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close(pl_module)

    def _close(self, pl_module: LightningModule) -> None:
        if isinstance(pl_module, DistillationTask):
            for tap in (pl_module.student_tap, pl_module.teacher_tap):
                if tap is not None:
                    tap.close()
            pl_module.student_tap = pl_module.teacher_tap = None


def _features_of(task: DistillationTask, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of the student and of the teacher, in evaluation mode; the student's mode is restored."""
    training = task.network.training
    task.network.eval()
    try:
        assert task.student_tap is not None
        assert task.teacher_tap is not None
        with torch.no_grad(), task.student_tap.recording() as student, task.teacher_tap.recording() as teacher:
            task.network(image)
            task.teacher(image)
    finally:
        task.network.train(training)
    return dict(student), dict(teacher)
