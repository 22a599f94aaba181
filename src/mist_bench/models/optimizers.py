"""The optimizers that every method shares, so that all are trained alike."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mist_bench.models.specs import AdamPairSpec, AdamSpec


def adam(weights: Iterable[Tensor], spec: AdamSpec) -> torch.optim.Adam:
    """Return Adam over ``weights``.

    Fused, on a CPU: torch's default passes over all weights a dozen times a step there, which took
    a fifth of the time of a step with the fully connected auto-encoder (docs/performance.md). It
    goes through memory in order, so weights, gradients and moments must share their layout:
    autograd sees to the gradients, ``checkpoint`` to restored moments.
    """
    return torch.optim.Adam(
        weights, spec.lr, spec.betas, weight_decay=spec.weight_decay, fused=True
    )


def adam_pair(
    detector: nn.Module, head: nn.Module, spec: AdamPairSpec
) -> dict[str, torch.optim.Optimizer]:
    """Return one Adam for what finds patches, ``detector``, and one for the head, ``task``."""
    pairs = (("detector", detector, spec.lr_detector), ("task", head, spec.lr_task))
    return {
        name: adam(module.parameters(), AdamSpec(lr=lr, betas=spec.betas))
        for name, module, lr in pairs
    }
