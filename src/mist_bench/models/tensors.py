"""Tensors between host and GPU, without making the host wait inside a training step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on ``device``; to a GPU it travels while the host goes on.

    Only from pinned memory can a GPU fetch by itself; torch keeps that memory until it has.
    """
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors that differ in their first size alone on ``device``, in one transfer."""
    return list(to_device(torch.cat(list(tensors)), device).split([len(one) for one in tensors]))


def read(rows: Sequence[Mapping[str, Tensor | float]]) -> list[dict[str, float]]:
    """Return rows of named numbers, some of them in tensors (), as plain ones, in one transfer."""
    tensors = [value for row in rows for value in row.values() if isinstance(value, Tensor)]
    found = iter(torch.stack(tensors).tolist() if tensors else ())
    return [
        {name: next(found) if isinstance(value, Tensor) else value for name, value in row.items()}
        for row in rows
    ]


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of 16 bits, as autocast leaves it, in float32; any other as it is.

    Eight or eleven bits are too coarse for what is compared, selected, summed or a coordinate.
    """
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
