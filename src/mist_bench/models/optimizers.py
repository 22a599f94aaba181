"""The optimizers that every method shares, so that all are trained alike."""

import torch
from torch import nn


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
    return {
        name: torch.optim.Adam(module.parameters(), lr=lr, betas=tuple(betas))
        for name, module, lr in pairs
    }
