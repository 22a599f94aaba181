"""Supervised: the bound of Table 2, MIST's networks trained with locations (Sec. 5.2).

The paper says only that "location supervision is used". Here the heatmap network regresses G at
the true centers (Eq. 7) and the classifier minimizes Eq. 9 on patches at the true boxes: it gets
no label per box, so that locations are all that is added. At test it works on its own detections.

Shapes: B images, K detections, L instances, C channels or classes, H W image.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mist_bench.models.detector import Detector, build_detector
from mist_bench.models.heads import (
    BoxClassifier,
    build_classifier,
    classification_loss,
    classified,
    label_histogram,
)
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.specs import AdamPairSpec, ClassifierSpec, DetectorSpec
from mist_bench.models.views import View
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


class Supervised(nn.Module):
    """A heatmap network and a classifier, each trained at the true boxes; see ``build``."""

    supervision: ClassVar[Supervision] = "boxes"

    def __init__(
        self,
        detector: Detector,
        classifier: BoxClassifier,
        task: TaskSpec,
        mirror: bool,
        optimizers: dict[str, torch.optim.Optimizer],
    ):
        super().__init__()
        self.detector, self.classifier, self.task = detector, classifier, task
        self.mirror, self.optimizers = mirror, optimizers

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step both networks on the true boxes and return their losses.

        Raises:
            ValueError: if the images of the batch hold different numbers of instances.
        """
        images, boxes = batch.images, pad_sequence(batch.boxes, batch_first=True)  # (B, L, 4)
        if any(len(one) != boxes.shape[1] for one in batch.boxes):
            raise ValueError("the supervised bound needs equally many instances in every image")
        labels = label_histogram(batch.labels, self.task.num_classes)
        loss = classification_loss(self.classifier(images, boxes), labels).mean()
        self.step("task", loss)
        view = View(images, mirror=self.mirror)
        heatmap, offsets = self.detector(view.images(images))
        parts = self.detector.loss(heatmap, offsets, view.boxes(boxes))
        heatmap_loss, offset_loss = (part.mean() for part in parts)
        self.step("detector", heatmap_loss + offset_loss)
        return {
            "loss": loss.detach(),
            "heatmap_loss": heatmap_loss.detach(),
            "offset_loss": offset_loss.detach(),
        }

    def step(self, name: str, loss: Tensor) -> None:
        """Make one step of the optimizer ``name`` on ``loss``."""
        self.optimizers[name].zero_grad()
        loss.backward()
        self.optimizers[name].step()

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return K classified boxes per image, ranked by their heatmap score."""
        heatmap, offsets = self.detector(images)
        boxes, scores = self.detector.extract(heatmap, offsets, self.task.num_instances)
        return classified(boxes, scores, self.classifier(images, boxes))


def build(
    task: TaskSpec,
    *,
    detector: DetectorSpec = DetectorSpec(),
    classifier: ClassifierSpec = ClassifierSpec(),
    mirror: bool = False,
    adam: AdamPairSpec = AdamPairSpec(),
) -> Supervised:
    """Return the supervised bound for ``task``; its networks are MIST's.

    Args:
        task: classification; K is the number of detections at test.
        detector: the heatmap network with its sharpening, selection and targets.
        classifier: what classifies patches.
        mirror: whether the detector learns from randomly reflected images.
        adam: the optimizers of both.
    """
    channels = task.image_size[0]
    found = build_detector(channels, task.box_size, detector)
    head = build_classifier(channels, task.num_classes, classifier)
    return Supervised(found, head, task, mirror, adam_pair(found, head, adam))


def check(task: TaskSpec) -> None:
    """Raise a ``ValueError`` for a task without labels."""
    if task.kind != "classification":
        raise ValueError(f"the supervised bound does classification only, not {task.kind}")
