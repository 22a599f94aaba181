"""MIST: top-K patch selection trained by lifting (Sec. 3, Algorithm 1).

Shapes: B images, K keypoints, L instances, C channels or classes, H W image, h w heatmap.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from mist_bench.models.detector import Detector, build_detector
from mist_bench.models.heads import BoxClassifier, build_classifier
from mist_bench.models.heatmap import Networks
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.multiscale import MultiscaleDetector, at_scales
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.paper import with_image_statistics
from mist_bench.models.selection import Maximum
from mist_bench.models.views import View
from mist_bench.types import Batch, Prediction, TaskSpec

if TYPE_CHECKING:
    from mist_bench.models.autoencoder import BoxAutoencoder

Order = Literal["x_tau_eta", "tau_x_eta", "joint"]
Marks = Callable[[Tensor, Tensor], Tensor]


class Mist(nn.Module):
    """MIST for any task a head can do; see ``build`` for the arguments.

    ``head`` is T_tau with its loss: classification here, reconstruction in ``mist_autoencoder``.
    ``marks`` maps images and boxes (B, K, 4) to the heights (B, K) of their marks in G, else 1.
    """

    def __init__(
        self,
        detector: Detector | MultiscaleDetector,
        head: "BoxClassifier | BoxAutoencoder",
        *,
        task: TaskSpec,
        keypoints: KeypointStep,
        order: Order,
        sample_weight: float,
        mirror: bool,
        shift: int,
        optimizers: dict[str, torch.optim.Optimizer],
        marks: Marks | None = None,
        weigh_offsets: bool = True,
    ):
        super().__init__()
        if order not in ("x_tau_eta", "tau_x_eta", "joint"):
            raise ValueError(f"order must be x_tau_eta, tau_x_eta or joint, got {order!r}")
        if order == "joint" and keypoints.steps != 1:
            raise ValueError(f"the joint order makes 1 keypoint step, got {keypoints.steps}")
        if shift < 0:
            raise ValueError(f"shift must be 0 px or more, got {shift}")
        self.detector, self.head, self.supervision = detector, head, head.supervision
        self.task, self.keypoints, self.order = task, keypoints, order
        self.sample_weight, self.mirror, self.shift = sample_weight, mirror, shift
        self.optimizers = optimizers
        self.marks, self.weigh_offsets = marks, weigh_offsets

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Make the three updates of Algorithm 1 on one batch and return their losses."""
        images, K = batch.images, self.task.num_instances
        targets = self.head.targets(batch)
        view = View(images, mirror=self.mirror, shift=self.shift)

        # {x_k} = E_K(H(I))
        if self.shift:
            with torch.no_grad():
                start, _ = self.detector.extract(*self.detector(images), K)
        else:
            heatmap, offsets = self.detector(view.images(images))
            start = view.boxes(self.detector.extract(heatmap, offsets, K)[0])  # a way back, too

        # tau and {x_k} <- step on L_task + lambda ||{x_k} - E_K(H(I))||^2 (Eq. 6)
        if self.order == "joint":
            task_loss, grad = self.update_task(images, start, targets)
            moved = self.keypoints.move(start, start, grad, self.cooling())
        elif self.order == "tau_x_eta":
            task_loss, _ = self.update_task(images, start, targets)
            moved = self.update_keypoints(images, start, targets)
        else:
            moved = self.update_keypoints(images, start, targets)
            task_loss, _ = self.update_task(images, moved, targets)

        # eta <- step on ||G({x_k}) - H(I)||^2 (Eq. 7), images that are explained weighing more
        target = view.boxes(moved)
        if self.shift:  # seen again where keypoints lie elsewhere in their cells (N21)
            heatmap, offsets = self.detector(view.images(images))
        heights = {} if self.marks is None else {"heights": self.marks(images, moved)}
        heatmap_loss, offset_loss = self.detector.loss(heatmap, offsets, target, **heights)
        weight = torch.exp(-self.sample_weight * task_loss)
        if self.weigh_offsets:
            objective = weight * (heatmap_loss + offset_loss)
        else:
            objective = weight * heatmap_loss + offset_loss
        self.optimizers["detector"].zero_grad()
        objective.mean().backward()
        self.optimizers["detector"].step()

        moves = (moved - start)[..., :2].norm(dim=-1)
        return {
            "loss": task_loss.mean(),
            "heatmap_loss": heatmap_loss.detach().mean(),
            "offset_loss": offset_loss.detach().mean(),
            "keypoint_shift": moves.mean(),
        }

    def update_task(self, images: Tensor, boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Step tau on the task loss at fixed boxes.

        Returns:
            The loss of each image (B,) before the step, and its gradient by its boxes (B, K, 4).
        """
        boxes = boxes.clone().requires_grad_()
        loss = self.head.loss(images, boxes, targets)
        self.optimizers["task"].zero_grad()
        loss.mean().backward()
        self.optimizers["task"].step()
        return loss.detach(), boxes.grad * len(images)

    def update_keypoints(self, images: Tensor, start: Tensor, targets: Tensor) -> Tensor:
        """Step {x_k} on the task loss at fixed tau and return the moved boxes (B, K, 4)."""
        moved = start
        for _ in range(self.keypoints.steps):
            boxes = moved.clone().requires_grad_()
            loss = self.head.loss(images, boxes, targets)
            (grad,) = torch.autograd.grad(loss.sum(), boxes)
            moved = self.keypoints.move(moved, start, grad, self.cooling())
        return moved

    def cooling(self) -> float:
        """Return the longest keypoint step now, as a fraction of what it may be."""
        group = self.optimizers["detector"].param_groups[0]
        return group["lr"] / group.get("initial_lr", group["lr"]) if self.keypoints.decay else 1.0

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return what the head makes of K boxes per image, ranked by their heatmap score."""
        heatmap, offsets = self.detector(images)
        boxes, scores = self.detector.extract(heatmap, offsets, self.task.num_predicted)
        found = self.head.predict(images, boxes, scores)
        return [replace(one, heatmap=map_) for one, map_ in zip(found, heatmap, strict=True)]


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
    scales: Sequence[float],
    classifier_channels: int,
    patch_size: int,
    window: float,
    keypoint_lr: float,
    keypoint_clip: float | None,
    keypoint_decay: bool,
    keypoint_steps: int,
    keypoint_penalty: float,
    order: Order,
    sample_weight: float,
    ignore_background: bool,
    mirror: bool,
    shift: int,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
    gray_copies: int = 1,
    image_statistics: bool = False,
    official_border: bool = False,
    suppressed_zero: bool = False,
    weigh_offsets: bool = True,
) -> Mist:
    """Return MIST for ``task``.

    Args:
        task: classification; K is the number of patches in training and at test.
        networks: compact (this suite's, for CPUs) or official (the paper's) for images; features or
            official_features for frozen features.
        detector_channels: channels of the heatmap network.
        detector_blocks: residual blocks of the heatmap network; on features, its 3x3 convolutions.
        heatmap_stride: pixels per heatmap cell; compact: 2 or 4, others: 1.
        softmax_kernel: side of the local spatial softmax's window, cells; 0 for none.
        softmax_strength: factor on the response before the local spatial softmax.
        softmax_maximum: what that softmax subtracts: the maximum of the global map (official
            code) or of the local window.
        nms_kernel: side of the non-maximum suppression's window, cells.
        target_sigma: standard deviation of G's Gaussians, cells; 0 for single points.
        offset_weight: weight of the offsets' loss (Eq. 11); 0 for no offsets.
        offset_kernel: side of the square of cells around a keypoint that learn the offset to it,
            weighed by a Gaussian of target_sigma at the keypoint; 1 for its own cell alone.
        scales: box sides to look for, in units of the task's, rising; [1.0] in the official code.
        classifier_channels: channels of the classifier's first layer; later ones have 2 and 4
            times as many (official: up to 16 times; on features, equally many).
        patch_size: samples per side of a patch; official: 32.
        window: standard deviation of a Gaussian over the patch, in half sides; 0 for none.
        keypoint_lr: pixels per unit gradient of an image's loss.
        keypoint_clip: longest keypoint step, px; null for no limit (official code).
        keypoint_decay: whether keypoint_clip follows the schedule of the learning rates.
        keypoint_steps: keypoint steps per batch; 1 where order is joint.
        keypoint_penalty: lambda of Eq. 6.
        order: x_tau_eta (official code), tau_x_eta (Algorithm 1) or joint (x and tau in one pass).
        sample_weight: a in the weight exp(-a * task loss) of an image's heatmap loss; 0 for none.
        ignore_background: whether keypoints count in G by how sure the classifier is that they are
            no background (not in the paper, where unused keypoints count as much as others).
        mirror: whether the detector learns from randomly reflected images.
        shift: longest random shift, px, of the view of an image in which the detector learns what
            was found in the image itself; 0 to learn in the view in which keypoints are found.
        lr_detector: Adam's learning rate for eta.
        lr_task: Adam's learning rate for tau.
        betas: Adam's decay rates, both networks.
        gray_copies: equal channels that the official networks see of a gray image (official code:
            3; deviation U21).
        image_statistics: whether the detector's batch norm uses the statistics of each single
            image at test, instead of averages from training (official code; deviation B1).
        official_border: whether a sample up to a pixel before the image repeats the first pixel,
            and one from the center of the last pixel on is 0 (official code; deviation A2).
        suppressed_zero: whether suppressed cells have the score 0, which outranks negative maxima
            (official code; deviation B9).
        weigh_offsets: whether sample_weight holds for the offsets' loss too; false in the official
            code (deviation A3).

    Raises:
        ValueError: for another order, several keypoint steps in the joint one, a negative shift, a
            stride, patch size or scales that the networks do not have, a background that cannot be
            ignored, or copies of channels for other networks.
    """
    if ignore_background and (task.background is None or target_sigma == 0 or len(scales) > 1):
        raise ValueError(
            "ignore_background needs a task with a background, target_sigma > 0 and one scale"
        )
    channels = task.image_size[0] * gray_copies
    if gray_copies > 1 and (networks != "official" or task.image_size[0] > 1):
        raise ValueError(
            f"gray_copies: {gray_copies} needs gray images and networks official, got "
            f"{task.image_size[0]} channels and {networks}"
        )
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
        suppressed_zero=suppressed_zero,
    )
    if image_statistics:
        with_image_statistics(detector)
    detector = at_scales(detector, scales)
    classifier = build_classifier(
        channels,
        task.num_classes,
        networks=networks,
        channels=classifier_channels,
        patch_size=patch_size,
        window=window,
        official_border=official_border,
    )
    return Mist(
        detector,
        classifier,
        task=task,
        keypoints=KeypointStep(
            keypoint_lr,
            keypoint_clip,
            keypoint_steps,
            keypoint_penalty,
            keypoint_decay,
            detector.sides,
        ),
        order=order,
        sample_weight=sample_weight,
        mirror=mirror,
        shift=shift,
        optimizers=adam_pair(detector, classifier, lr_detector, lr_task, betas),
        marks=partial(classifier.presence, task.background) if ignore_background else None,
        weigh_offsets=weigh_offsets,
    )
