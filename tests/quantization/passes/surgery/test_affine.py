"""Where channels stand before a node that permutes."""

import pytest
import torch
from torch import fx, nn

from depth_distill.quantization.passes.surgery.affine import permuted


class Net(nn.Module):
    def __init__(self, move):
        super().__init__()
        self.permute, self.transpose, self.move = nn.Identity(), nn.ReLU(), move

    def forward(self, x):
        return self.move(self.transpose(self.permute(x)))


@pytest.mark.parametrize(
    ("move", "before"),
    [
        (lambda x: x.permute(0, 2, 3, 1), (0, 2, 3, 1)),
        (lambda x: x.permute((0, 2, 3, 1)), (0, 2, 3, 1)),
        (lambda x: x.permute(dims=(0, 2, 3, -3)), (0, 2, 3, 1)),
        (lambda x: torch.permute(x, dims=(0, 2, 3, 1)), (0, 2, 3, 1)),
        (lambda x: x.transpose(1, -1), (0, 3, 2, 1)),
        (lambda x: torch.transpose(x, dim0=1, dim1=2), (0, 2, 1, 3)),
        (lambda x: x.swapaxes(axis0=1, axis1=2), (0, 2, 1, 3)),
        (lambda x: x.flatten(1), (None,) * 4),
    ],
)
def test_where_a_dimension_stood_before(move, before):
    last = [node for node in fx.symbolic_trace(Net(move)).graph.nodes if node.op.startswith("call")][-1]
    assert tuple(permuted(last, place, 4) for place in range(4)) == before


def test_a_layer_that_is_named_like_a_method_moves_nothing():
    layers = [node for node in fx.symbolic_trace(Net(nn.Identity())).graph.nodes if node.op == "call_module"]
    assert [str(node.target) for node in layers] == ["permute", "transpose", "move"]
    assert [permuted(node, 1, 4) for node in layers] == [None] * 3
