"""Symbolic tracing at one image size: what depends on shapes is worked out, as a network at a fixed size knows it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from typing_extensions import override

_VALUE = "value_at_this_size"
_BATCH = 2  # of the imagined image; sizes of the first dimension stay unknown, so any other will do


class SizedProxy(fx.Proxy):
    """A value in a trace that knows its shape, except for the batch size."""

    @property
    def shape(self) -> Any:
        """Sizes as numbers; the first stays a value of the trace, because a graph takes any number of images."""
        value = self.node.meta.get(_VALUE)
        if not isinstance(value, Tensor):
            return fx.proxy.Attribute(self, "shape")
        return tuple(self._size(dim) for dim in range(value.ndim))

    def size(self, dim: int | None = None) -> Any:
        """As :attr:`shape`."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> Any:
        """The number of dimensions."""
        return self._known("dim", lambda value: value.ndim)

    @property
    def ndim(self) -> Any:
        """The number of dimensions."""
        return self.dim()

    @property
    def dtype(self) -> Any:
        """The type of its values."""
        value = self.node.meta.get(_VALUE)
        return value.dtype if isinstance(value, Tensor) else fx.proxy.Attribute(self, "dtype")

    def __len__(self) -> int:
        value = self.node.meta.get(_VALUE)
        if isinstance(value, tuple | list):
            return len(value)
        return super().__len__()

    def __iter__(self) -> Any:
        value = self.node.meta.get(_VALUE)
        if isinstance(value, tuple | list):
            return iter([self[position] for position in range(len(value))])  # type: ignore[index]
        return super().__iter__()

    def _known(self, method: str, known: Callable[[Tensor], Any]) -> Any:
        value = self.node.meta.get(_VALUE)
        return (
            known(value) if isinstance(value, Tensor) else self.tracer.create_proxy("call_method", method, (self,), {})
        )

    def _size(self, dim: int) -> Any:
        if dim == 0:
            return self.tracer.create_proxy("call_method", "size", (self, 0), {})
        return int(self.node.meta[_VALUE].shape[dim])


class SizedTracer(fx.Tracer):
    """Traces with the shapes that images of one size lead to.

    Its values have to be of :class:`SizedProxy`.

    Args:
        image: shape ``(C, H, W)`` of the one input.
    """

    def __init__(self, image: tuple[int, int, int]) -> None:
        super().__init__()
        self._image = image
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._is_measuring = False

    @override
    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **named: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **named)
        node = proxy.node
        if _VALUE not in node.meta:
            self._is_measuring = True
            try:
                node.meta[_VALUE] = self._value(node)
            finally:
                self._is_measuring = False
        return proxy

    @override
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._is_measuring else super().call_module(m, forward, args, kwargs)

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._is_measuring else super().getattr(attr, attr_val, parameter_proxy_cache)

    @override
    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        graph = super().trace(root, concrete_args)
        for node in graph.nodes:
            node.meta.pop(_VALUE, None)
        return graph

    def _value(self, node: fx.Node) -> Any:
        """What a node gives at this size, without its numbers; None where that cannot be told."""
        root = self.root
        assert isinstance(root, nn.Module)
        with self._fake, torch.no_grad():
            if node.op == "placeholder":
                like = next(root.parameters(), torch.zeros(()))
                return torch.empty(_BATCH, *self._image, device=like.device, dtype=like.dtype)
            try:
                args = fx.node.map_arg(node.args, lambda each: each.meta[_VALUE])
                kwargs = fx.node.map_arg(node.kwargs, lambda each: each.meta[_VALUE])
                if node.op == "get_attr":
                    owner, _, name = str(node.target).rpartition(".")
                    value = getattr(root.get_submodule(owner), name)
                    return self._fake.from_tensor(value) if isinstance(value, Tensor) else value
                if node.op == "call_module":
                    return root.get_submodule(str(node.target)).forward(*args, **kwargs)
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                if node.op == "call_function":
                    return node.target(*args, **kwargs)  # type: ignore[operator]
            except Exception:  # whatever an operator raises for imagined values: its shape stays unknown
                return None
        return None
