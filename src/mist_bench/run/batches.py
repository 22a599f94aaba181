"""What a training step sees: which images, and no more supervision than its method has declared.

Shapes: B and N images, C channels, H W image, L instances.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mist_bench.models.tensors import send, to_device
from mist_bench.run.method import stream
from mist_bench.types import Batch, Supervision, TaskSpec

Arrays = Mapping[str, NDArray]


def to_images(images: NDArray, device: torch.device) -> Tensor:
    """Return stored (N, C, H, W) images as float32 on ``device``; uint8 ones in [0, 1]."""
    if not images.flags.writeable:  # a memory map's: torch would share what it may not write
        images = images.copy()
    tensor = to_device(torch.from_numpy(np.ascontiguousarray(images)), device)
    return tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor.float()


def check_labels(split: Arrays, task: TaskSpec) -> None:
    """Raise a ``ValueError`` for a label that the task has no class for."""
    highest = int(split["labels"].max(initial=-1))
    if task.kind == "classification" and highest >= task.num_classes:
        raise ValueError(
            f"the data hold the label {highest}, but the task has {task.num_classes} classes: "
            "correct num_classes, or make the data anew"
        )


def choose(seed: int, step: int, batch_size: int, size: int) -> NDArray[np.int64]:
    """Return the images of a step (from 1); each epoch shows every image once.

    A batch may straddle two epochs, so that no image is dropped and no batch is smaller.
    """
    places = range((step - 1) * batch_size, step * batch_size)
    return np.array([epoch_order(seed, place // size, size)[place % size] for place in places])


def make_batch(
    split: Arrays,
    index: NDArray[np.int64],
    supervision: Supervision,
    device: torch.device,
    task: TaskSpec | None = None,
) -> Batch:
    """Return a batch that holds no more than the supervision its method has declared.

    Without boxes, labels are sorted, so that their order says nothing about locations, and filled
    up to K with the background of ``task``, if it has one (Sec. 5.2).

    Raises:
        ValueError: for an unknown supervision, which could otherwise see everything.
    """
    if supervision not in (known := get_args(Supervision)):
        raise ValueError(f"supervision must be one of {', '.join(known)}, got {supervision!r}")
    images = to_images(split["images"][index], device)
    if supervision == "none":
        return Batch(images)
    counts = split["counts"][index]
    labels = [torch.from_numpy(split["labels"][i, :n]) for i, n in zip(index, counts, strict=True)]
    if supervision == "labels":
        if task is not None and task.background is not None:
            labels = [fill_labels(one, task.num_instances, task.background) for one in labels]
        return Batch(images, send([one.sort().values for one in labels], device))
    boxes = [torch.from_numpy(split["boxes"][i, :n]) for i, n in zip(index, counts, strict=True)]
    return Batch(images, send(labels, device), send(boxes, device))


def fill_labels(labels: Tensor, count: int, background: int) -> Tensor:
    """Return (L,) labels with as many times ``background`` as make them at least ``count``."""
    return F.pad(labels, (0, max(count - len(labels), 0)), value=background)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of ``size`` images in an epoch; needs no state, so resuming is exact."""
    return stream(seed, "order", epoch).permutation(size)
