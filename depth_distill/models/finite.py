"""The first weight of a network that is NaN or infinite."""

from torch import nn


def first_non_finite_weight(module: nn.Module, statistics: bool = True) -> str | None:
    """Name of the first weight that holds a NaN or an infinity; None if all are finite.

    Args:
        module: network or task.
        statistics: whether running statistics are looked at, too. A forward pass in training mode does not use them,
            but leaves what was not finite in it there.
    """
    for prefix, each in module.named_modules():
        if not getattr(each, "has_range", True):
            continue  # the scale of a fake quantizer is NaN until it is calibrated
        weights = list(each.named_parameters(recurse=False))
        if statistics:
            weights += [(name, value) for name, value in each.named_buffers(recurse=False) if "running" in name]
        for name, value in weights:
            if not bool(value.isfinite().all()):
                return f"{prefix}.{name}" if prefix else name
    return None
