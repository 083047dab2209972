"""Runs a network node by node over all batches at once, so that a pass can change layers on the way."""

from collections.abc import Iterable, Sequence

from torch import Tensor, fx


def start(network: fx.GraphModule, batches: Sequence[Tensor]) -> list[fx.Interpreter]:
    """One run per batch, before its first node; ``env`` of a run has the values that are still needed."""
    runs = [fx.Interpreter(network) for _ in batches]
    for run, batch in zip(runs, batches, strict=True):
        run.args_iter = iter([batch])
    return runs


def advance(runs: Sequence[fx.Interpreter], nodes: Iterable[fx.Node], upto: fx.Node | None = None) -> None:
    """Run the next nodes for all batches, and drop values that are not needed any more.

    Args:
        runs: runs of one network.
        nodes: its next nodes; an iterator goes on where it was left.
        upto: the last node to run; all unless given.
    """
    for node in nodes:
        for run in runs:
            run.env[node] = run.run_node(node)
            for dead in run.user_to_last_uses.get(node, []):
                del run.env[dead]
        if node is upto:
            return
