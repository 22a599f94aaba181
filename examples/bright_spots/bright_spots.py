"""Bright spots: the K highest local maxima of the blurred image, classified; no detector learned.

A floor for tables of MNIST scenes: digits are light on black, so how far does brightness lead? The
classifier is the one that MIST has, trained on Eq. 9 at these boxes.

Shapes: B images, K detections, C channels, H W image.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mist_bench.models.heads import BoxClassifier, build_classifier
from mist_bench.models.optimizers import adam as build_adam
from mist_bench.models.selection import to_keypoints, top_k
from mist_bench.models.specs import AdamSpec, ClassifierSpec
from mist_bench.spec import OddCount, Positive
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


class BrightSpots(nn.Module):
    """Boxes at maxima of the blurred image and a classifier; see ``build``."""

    supervision: ClassVar[Supervision] = "labels"

    def __init__(
        self, head: BoxClassifier, task: TaskSpec, blur: float, nms_kernel: int, adam: AdamSpec
    ):
        super().__init__()
        self.head, self.task, self.nms_kernel = head, task, nms_kernel
        self.optimizers = {"task": build_adam(head.parameters(), adam)}
        reach = round(3 * blur)
        weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * blur**2))
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def locate(self, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return (B, ``count``, 4) boxes in pixels and their (B, ``count``) brightness."""
        gray, reach = images.mean(1, keepdim=True), len(self.weights) // 2
        rows = F.conv2d(gray, self.weights[None, None, None], padding=(0, reach))
        blurred = F.conv2d(rows, self.weights[None, None, :, None], padding=(reach, 0))[:, 0]
        index, scores = top_k(blurred, count, self.nms_kernel)
        centers = to_keypoints(index, blurred.shape[-1])
        sides = torch.full_like(centers, self.task.box_size)
        return torch.cat([centers, sides], dim=-1), scores

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step the classifier on Eq. 9 at the bright spots and return the loss."""
        boxes, _ = self.locate(batch.images, self.task.num_instances)
        loss = self.head.loss(batch.images, boxes, self.head.targets(batch)).mean()
        self.optimizers["task"].zero_grad()
        loss.backward()
        self.optimizers["task"].step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return classified boxes, the brightest first."""
        return self.head.predict(images, *self.locate(images, self.task.num_predicted))


def build(
    task: TaskSpec,
    *,
    blur: Positive = 4,
    nms_kernel: OddCount = 9,
    classifier: ClassifierSpec = ClassifierSpec(),
    adam: AdamSpec = AdamSpec(),
) -> BrightSpots:
    """Return the floor for ``task``.

    Args:
        task: classification; K is the number of boxes.
        blur: standard deviation of the Gaussian that blurs the image, px.
        nms_kernel: side of the non-maximum suppression's window, px.
        classifier: what classifies patches.
        adam: the optimizer.
    """
    head = build_classifier(task.image_size[0], task.num_classes, classifier)
    return BrightSpots(head, task, blur, nms_kernel, adam)
