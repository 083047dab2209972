"""Where a network stops being finite: what the message about a diverged run names."""

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from depth_distill.errors import DivergedError
from depth_distill.models.finite import first_non_finite_weight
from depth_distill.quantization.simulate.fake_quantize import preserve_quantizer_state, quantizers


def diverged(task: LightningModule, what: str, first: str | None) -> DivergedError:
    """The error of a run whose numbers are not finite any more.

    Args:
        task: the task that is trained or evaluated.
        what: which number was found to be what.
        first: the first weight or layer that is not finite, where one is.
    """
    found = what + (f" (the first that is not finite: {first})" if first else "")
    if not (task.training or task.global_step):  # evaluation of a checkpoint
        return DivergedError(f"{found}: give another checkpoint")
    return DivergedError(
        f"epoch {task.current_epoch}, step {task.global_step}: {found}; try a lower learning rate or "
        "trainer.gradient_clip_val. Checkpoints are those of before"
    )


def first_non_finite(network: nn.Module, image: Tensor) -> str | None:
    """What is the first not to be finite: a weight, the image, or the output of a layer; None if all are finite.

    Args:
        network: called with ``image`` where its weights are finite.
        image: ``(B, 3, H, W)``.
    """
    weight = first_non_finite_weight(network, statistics=not network.training)
    if weight is not None:
        return f"weight {weight}"
    if not bool(image.isfinite().all()):
        return "the image"
    found: list[str] = []

    def look(name: str, output: object) -> None:
        if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
            found.append(f"output of layer {name}" if name else "output of the network")

    # Inner layers return before those around them: the first that is found is the innermost.
    handles: list[RemovableHandle] = [
        module.register_forward_hook(lambda module, arguments, output, name=name: look(name, output))
        for name, module in network.named_modules()
    ]
    try:
        # Ranges that are tracked would move, and wait for the other processes, which do not come here.
        with torch.no_grad(), preserve_quantizer_state(network):
            for each in quantizers(network).values():
                each.tracking = False
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
