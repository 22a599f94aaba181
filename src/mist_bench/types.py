"""The whole contract between datasets, methods and evaluation, on one page.

Shapes: B batch, L instances in an image, K detections, C channels or classes, H and W image size.
This module imports no torch at run time, so that evaluation and reporting stay free of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["classification", "reconstruction"]
Supervision = Literal["none", "labels", "boxes"]


@dataclass(frozen=True)
class TaskSpec:
    """What a method is told about the problem before it sees an image.

    Attributes:
        kind: ``classification`` (Eq. 9) or ``reconstruction`` (Eq. 8).
        image_size: (C, H, W) of every image.
        num_instances: K, the number of patches to extract; the only number a method gets for free.
        num_detections: boxes to return at test where that is not K (Table 5); ``None`` for K.
        num_classes: number of classes; 0 where the task has no labels.
        box_size: side of a detection box, in pixels of the input image.
        background: class of a patch without an object (Sec. 5.2), which fills up the labels of an
            image with fewer objects than K; ``None`` where every patch is to be an object.
    """

    kind: Kind
    image_size: tuple[int, int, int]
    num_instances: int
    num_classes: int
    box_size: float
    num_detections: int | None = None
    background: int | None = None

    @property
    def num_predicted(self) -> int:
        """How many boxes to return at test."""
        return self.num_instances if self.num_detections is None else self.num_detections


@dataclass(frozen=True)
class Batch:
    """Images and the supervision a method has declared; everything else is ``None``.

    Attributes:
        images: (B, C, H, W) float32 in [0, 1].
        labels: B tensors (L,) int64 in 0..C-1; sorted, and filled up to K with the background of
            the task, where boxes are withheld; or ``None``.
        boxes: B tensors (L, 4) float32 cxcywh in pixels, in the order of ``labels``; or ``None``.
    """

    images: Tensor
    labels: list[Tensor] | None = None
    boxes: list[Tensor] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a method says about one image.

    Attributes:
        boxes: (K, 4) float32 cxcywh in pixels; K may differ between images and may be 0.
        scores: (K,) float32, higher is more certain; ranks detections.
        labels: (K,) int64 in 0..C-1; ``None`` for reconstruction.
        probs: (K, C) float32 class probabilities; ``None`` for reconstruction.
        reconstruction: (C, H, W) float32, not clipped; ``None`` for classification.
        patches: (K, C, p, p) float32, what each box contributes to the reconstruction; ``None``
            without one or where a method has no patches.
        heatmap: (h, w) float32, what boxes were selected from; ``None`` where there is no such map.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor | None = None
    probs: Tensor | None = None
    reconstruction: Tensor | None = None
    patches: Tensor | None = None
    heatmap: Tensor | None = None


class Method(Protocol):
    """A trainable method: an ``nn.Module`` that ``build(task, *, ...)`` of its file returns.

    The annotated keywords of ``build`` are its parameters. ``check(task, *, ...)``, if the file has
    it, takes some of them and refuses tasks and combinations that it cannot do.

    ``supervision`` is the most it may see: the loop removes labels and boxes that it did not
    declare. ``optimizers`` holds its optimizers by name; the loop scales their learning rates and
    stores and restores them. ``train_step`` makes one step of each and returns scalars to log, of
    which ``loss`` is compulsory: tensors () without gradient, which the loop reads every few steps,
    because a host that reads one in each step makes a GPU wait.
    """

    supervision: ClassVar[Supervision]

    def train_step(self, batch: Batch) -> dict[str, Tensor | float]:
        """Return the scalars of one optimization step over ``batch``."""

    def predict(self, images: Tensor) -> list[Prediction]:
        """Return one prediction per image of (B, C, H, W), independent of the batch."""
