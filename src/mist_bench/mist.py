"""MIST: top-K patch selection trained by lifting (Sec. 3, Algorithm 1).

Shapes: B images, K keypoints, L instances, C channels or classes, H W image, h w heatmap.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from mist_bench.models.autoencoder import BoxAutoencoder, build_autoencoder
from mist_bench.models.detector import Detector, build_detector
from mist_bench.models.heads import BoxClassifier, build_classifier
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.multiscale import MultiscaleDetector, Scales, at_scales
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.paper import with_image_statistics
from mist_bench.models.specs import (
    AdamPairSpec,
    AutoencoderSpec,
    ClassifierSpec,
    DetectorSpec,
    KeypointSpec,
    OfficialSpec,
)
from mist_bench.models.views import View
from mist_bench.spec import Natural, NonNegative, Only, Positive
from mist_bench.types import Batch, Prediction, TaskSpec

Marks = Callable[[Tensor, Tensor], Tensor]


class Mist(nn.Module):
    """MIST for any task a head can do; see ``build``.

    Args:
        detector: H_eta, E_K and G.
        head: T_tau with its loss: a classifier or an auto-encoder of patches.
        task: K is the number of patches.
        keypoints: how {x_k} move.
        sample_weight, mirror, shift: as in ``build``.
        optimizers: ``detector`` steps eta, ``task`` steps tau.
        marks: maps images and boxes (B, K, 4) to the heights (B, K) of their marks in G; 1 without.
        weigh_offsets: whether sample_weight holds for the offsets' loss, too.
    """

    def __init__(
        self,
        detector: Detector | MultiscaleDetector,
        head: BoxClassifier | BoxAutoencoder,
        *,
        task: TaskSpec,
        keypoints: KeypointStep,
        sample_weight: float,
        mirror: bool,
        shift: int,
        optimizers: dict[str, torch.optim.Optimizer],
        marks: Marks | None = None,
        weigh_offsets: bool = True,
    ):
        super().__init__()
        self.detector, self.head, self.supervision = detector, head, head.supervision
        self.task, self.keypoints, self.optimizers = task, keypoints, optimizers
        self.sample_weight, self.mirror, self.shift = sample_weight, mirror, shift
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
        if self.keypoints.order == "joint":
            task_loss, grad = self.update_task(images, start, targets)
            moved = self.keypoints.move(start, start, grad, self.cooling())
        elif self.keypoints.order == "tau_x_eta":
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
    detector: DetectorSpec = DetectorSpec(),
    scales: Scales = (1.0,),
    classifier: Annotated[ClassifierSpec, Only("classification")] = ClassifierSpec(),
    autoencoder: Annotated[AutoencoderSpec, Only("reconstruction")] = AutoencoderSpec(),
    keypoints: KeypointSpec = KeypointSpec(),
    sample_weight: NonNegative = 5,
    ignore_background: Annotated[bool, Only("classification")] = False,
    full_contribution: Annotated[Positive | None, Only("reconstruction")] = None,
    mirror: bool = True,
    shift: Natural = 2,
    adam: AdamPairSpec = AdamPairSpec(),
    official: Annotated[OfficialSpec | None, Only("classification")] = None,
) -> Mist:
    """Return MIST for ``task``.

    Args:
        task: its kind decides on the head; K is the number of patches in training and at test.
        detector: the heatmap network with its sharpening, selection and targets.
        scales: box sides to look for, in units of the task's, rising; encoded squares grow with
            them; [1.0] in the code (D6).
        classifier: what classifies patches.
        autoencoder: what encodes and decodes patches.
        keypoints: the step of {x_k} down the task loss.
        sample_weight: a in the weight exp(-a * task loss) of an image's heatmap loss; 0 for none,
            5 in the code (D5).
        ignore_background: whether keypoints count in G by how sure the classifier is that they are
            no background (not in the paper, where unused keypoints count as much as others).
        full_contribution: share of a decoded patch's energy by which it must lower the error that
            patches with higher scores leave, for its keypoint to count fully in G; what lowers it
            less counts in proportion (not in the paper); null where all count fully (the paper).
        mirror: whether the detector learns from randomly reflected images (not in the paper).
        shift: longest random shift, px, of the view of an image in which the detector learns what
            was found in the image itself; 0 to learn in the view in which keypoints are found (the
            paper).
        adam: the optimizers of eta and tau.
        official: quirks of the official code, none by default.
    """
    channels, copies = task.image_size[0], official.gray_copies if official else 1
    found = build_detector(
        channels * copies,
        task.box_size,
        detector,
        suppressed_zero=bool(official and official.suppressed_zero),
    )
    if official and official.image_statistics:
        with_image_statistics(found)
    found, marks = at_scales(found, scales), None
    if task.kind == "classification":
        border = bool(official and official.border)
        head = build_classifier(
            channels * copies, task.num_classes, classifier, official_border=border
        )
        if ignore_background:
            marks = partial(head.presence, task.background)
    else:
        head = build_autoencoder(
            channels,
            autoencoder,
            extent=autoencoder.extent,
            box_size=task.box_size if found.sides else None,
            whole_pixels=autoencoder.whole_pixels,
        )
        if full_contribution is not None:
            marks = partial(head.marks, full_contribution)
    return Mist(
        found,
        head,
        task=task,
        keypoints=KeypointStep(keypoints, found.sides),
        sample_weight=sample_weight,
        mirror=mirror,
        shift=shift,
        optimizers=adam_pair(found, head, adam),
        marks=marks,
        weigh_offsets=official.weigh_offsets if official else True,
    )


def check(
    task: TaskSpec,
    *,
    detector: DetectorSpec,
    scales: Scales,
    autoencoder: AutoencoderSpec,
    ignore_background: bool,
    full_contribution: float | None,
    official: OfficialSpec | None,
) -> None:
    """Raise a ``ValueError`` for keywords of ``build`` that exclude each other.

    The workflow calls it before any job starts, and whoever builds from a specification.

    A background that cannot be ignored, marks that a target without Gaussians or at several scales
    cannot have, whole pixels at several scales, copies of channels for other networks or images.
    """
    single = list(scales) == [1.0]
    gaussian = detector.target_sigma > 0 and single
    if ignore_background and (task.background is None or not gaussian):
        raise ValueError(
            "ignore_background needs a task with a background, target_sigma > 0 and one scale"
        )
    if full_contribution is not None and not gaussian:
        raise ValueError("full_contribution needs target_sigma > 0 and one scale, or be null")
    if task.kind == "reconstruction" and autoencoder.whole_pixels and not single:
        raise ValueError("autoencoder.whole_pixels needs one scale")
    gray = detector.networks == "official" and task.image_size[0] == 1
    if official and official.gray_copies > 1 and not gray:
        raise ValueError("official.gray_copies above 1 needs gray images and networks official")
