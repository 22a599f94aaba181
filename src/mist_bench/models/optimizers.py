"""The optimizers that every method shares, so that all are trained alike."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def adam(
    weights: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
) -> torch.optim.Adam:
    """Return Adam over ``weights``.

    Fused, on a CPU: torch's default passes over all weights a dozen times a step there, which took
    a fifth of the time of a step with the fully connected auto-encoder (docs/performance.md). It
    goes through memory in order, so weights, gradients and moments must share their layout:
    autograd sees to the gradients, ``checkpoint`` to restored moments.
    """
    return torch.optim.Adam(weights, lr, tuple(betas), weight_decay=weight_decay, fused=True)


def adam_pair(
    detector: nn.Module,
    classifier: nn.Module,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> dict[str, torch.optim.Optimizer]:
    """Return one Adam for what finds patches and one for what classifies them.

    Args:
        detector: its weights go to ``detector``.
        classifier: its weights go to ``task``.
        lr_detector: learning rate of the first.
        lr_task: learning rate of the second.
        betas: decay rates of both.
    """
    pairs = (("detector", detector, lr_detector), ("task", classifier, lr_task))
    return {name: adam(module.parameters(), lr, betas) for name, module, lr in pairs}
