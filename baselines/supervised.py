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
from mist_bench.models.heatmap import Networks
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.selection import Maximum
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
    networks: Networks,
    detector_channels: int,
    detector_blocks: int,
    heatmap_stride: int,
    softmax_kernel: int,
    softmax_strength: float,
    softmax_maximum: Maximum,
    nms_kernel: int,
    target_sigma: float,
    offset_weight: float,
    offset_kernel: int,
    classifier_channels: int,
    patch_size: int,
    window: float,
    mirror: bool,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> Supervised:
    """Return the supervised bound for ``task``; its networks are MIST's.

    Args:
        task: classification; K is the number of detections at test.
        networks: compact (this suite's, for CPUs) or official (the paper's).
        detector_channels: channels of the heatmap network.
        detector_blocks: residual blocks of the heatmap network.
        heatmap_stride: pixels per heatmap cell; compact: 2 or 4, official: 1.
        softmax_kernel: side of the local spatial softmax's window, cells; 0 for none.
        softmax_strength: factor on the response before the local spatial softmax.
        softmax_maximum: what that softmax subtracts: the maximum of the global map (official
            code) or of the local window.
        nms_kernel: side of the non-maximum suppression's window, cells.
        target_sigma: standard deviation of G's Gaussians, cells; 0 for single points.
        offset_weight: weight of the offsets' loss (Eq. 11); 0 for no offsets.
        offset_kernel: side of the square of cells around a keypoint that learn the offset to it,
            weighed by a Gaussian of target_sigma at the keypoint; 1 for its own cell alone.
        classifier_channels: channels of the classifier's first layer.
        patch_size: samples per side of a patch; official: 32.
        window: standard deviation of a Gaussian over the patch, in half sides; 0 for none.
        mirror: whether the detector learns from randomly reflected images.
        lr_detector: Adam's learning rate for the heatmap network.
        lr_task: Adam's learning rate for the classifier.
        betas: Adam's decay rates, both networks.
    """
    channels = task.image_size[0]
    detector = build_detector(
        channels,
        task.box_size,
        networks=networks,
        channels=detector_channels,
        blocks=detector_blocks,
        stride=heatmap_stride,
        softmax_kernel=softmax_kernel,
        softmax_strength=softmax_strength,
        softmax_maximum=softmax_maximum,
        nms_kernel=nms_kernel,
        target_sigma=target_sigma,
        offset_weight=offset_weight,
        offset_kernel=offset_kernel,
    )
    classifier = build_classifier(
        channels,
        task.num_classes,
        networks=networks,
        channels=classifier_channels,
        patch_size=patch_size,
        window=window,
    )
    optimizers = adam_pair(detector, classifier, lr_detector, lr_task, betas)
    return Supervised(detector, classifier, task, mirror, optimizers)
