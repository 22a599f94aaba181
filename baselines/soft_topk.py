"""Xie20: the differentiable top-K by optimal transport as a mask (Sec. 5.2, App. C.2, Table 3).

Every location is classified, and a soft mask of the K highest scores says which classifications
count (Eq. 12): no patch is extracted, and one loss reaches scores and classes. The paper names an
architecture "similar to the region proposal network" and no detail. Here: the trunk of MIST's
compact heatmap network, a 3x3 convolution, and sibling 1x1 convolutions for the score and for the
classes. With 2 blocks a location sees 36 px of the image, with 1 block 28 px, with none 20 px.

Shapes: B images, N = h w locations, K selected, C channels or classes, H W image, h w map.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mist_bench.baselines.parts.masks import sinkhorn_top_k, soft_top_k
from mist_bench.models.detector import gather_cells
from mist_bench.models.heads import classification_loss, classified, label_histogram
from mist_bench.models.heatmap import CompactHeatmap, PreservingBlock, check_whole_cells, conv_norm
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.selection import to_keypoints, top_k
from mist_bench.models.tensors import widened
from mist_bench.models.views import Mirror
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec

MaskOperator = Callable[[Tensor, int], Tensor]
RegionNetworks = Literal["compact", "features"]


class RegionNetwork(nn.Module):
    """Scores and classifies every location of a map.

    Args:
        in_channels: C.
        channels: channels of the trunk.
        blocks: residual blocks of the trunk.
        stride: pixels per location: 2 or 4, and 1 on features.
        head: channels of the 3x3 convolution before the score and the classes.
        classes: number of classes.
        networks: compact for images, features for frozen features.

    Raises:
        ValueError: for other networks, or a stride that they do not have.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: int,
        stride: int,
        head: int,
        classes: int,
        networks: RegionNetworks = "compact",
    ):
        super().__init__()
        if networks == "compact":
            trunk = CompactHeatmap(in_channels, channels, blocks, stride, outputs=1)
            layers = [trunk.stem, trunk.blocks]
        elif networks == "features" and stride == 1:
            layers = [
                nn.BatchNorm2d(in_channels),
                conv_norm(in_channels, channels, 1, 1),
                nn.ReLU(),
            ]
            layers += [PreservingBlock(channels) for _ in range(blocks)]
        else:
            raise ValueError(
                "networks must be compact, or features with stride 1; "
                f"got {networks!r} and {stride}"
            )
        self.stride = stride
        self.trunk = nn.Sequential(*layers, conv_norm(channels, head, 3, 1))
        self.score = nn.Conv2d(head, 1, 1)
        self.logits = nn.Conv2d(head, classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, h, w) scores and (B, C, h, w) class probabilities of (B, C, H, W)."""
        features = torch.relu(self.trunk(images))
        scores, logits = self.score(features), self.logits(features)
        return widened(scores[:, 0]), widened(logits).softmax(1)

    def reflected_scores(self, images: Tensor) -> Tensor:
        """Return the (B, h, w) scores that the cells of (B, C, H, W) have in random reflections.

        Raises:
            ValueError: as ``check_whole_cells``.
        """
        check_whole_cells(images, self.stride)
        mirror = Mirror(images)
        features = torch.relu(self.trunk(mirror.images(images)))
        return widened(mirror.images(self.score(features))[:, 0])  # a reflection undoes itself


class MaskedClassifier(nn.Module):
    """A region network trained through a mask of its scores; see ``build``.

    Args:
        network: what scores and classifies.
        operator: maps (B, N) scores and K to a mask (B, N) that sums to K.
        task: classification; K is the mask's sum and the number of detections.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        entropy_weight: weight of the entropy of softmax(scores), which is maximized; 0 for none.
        mirror: whether the mask of a training step is made of scores in random reflections of the
            images, as MIST's detector sees them: scores cannot settle at one side of the objects.
        optimizers: those of the network's parts.
    """

    supervision: ClassVar[Supervision] = "labels"

    def __init__(
        self,
        network: RegionNetwork,
        operator: MaskOperator,
        *,
        task: TaskSpec,
        nms_kernel: int,
        entropy_weight: float,
        mirror: bool,
        optimizers: dict[str, torch.optim.Optimizer],
    ):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.operator, self.task, self.nms_kernel = operator, task, nms_kernel
        self.entropy_weight, self.mirror, self.optimizers = entropy_weight, mirror, optimizers

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step the network on Eq. 12 and return it, and the mask's mass on its K largest."""
        K = self.task.num_instances
        labels = label_histogram(batch.labels, self.task.num_classes)
        scores, probs = self.network(batch.images)
        if self.mirror:
            scores = self.network.reflected_scores(batch.images)
        scores = scores.flatten(1)  # (B, N)
        mask = self.operator(scores, K)
        loss = masked_loss(probs.flatten(2), mask, labels, K).mean()
        total = loss
        if self.entropy_weight > 0:
            total = loss - self.entropy_weight * entropy(scores).mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        total.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        selected = mask.detach().topk(K, dim=1).values.mean()
        return {"loss": loss.detach(), "mask_mass": selected}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return the K classified boxes of highest rank per image, at the centers of cells."""
        scores, probs = self.network(images)
        ranking = self.ranking(scores, probs)
        index, scores = top_k(ranking, self.task.num_predicted, self.nms_kernel)
        s = self.network.stride
        centers = to_keypoints(index, probs.shape[-1]) * s + (s - 1) / 2
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        found = classified(boxes, scores, gather_cells(probs, index))
        return [replace(one, heatmap=map_) for one, map_ in zip(found, ranking, strict=True)]

    def ranking(self, scores: Tensor, probs: Tensor) -> Tensor:
        """Return (B, h, w): what locations are selected by at test; ``probs`` is (B, C, h, w)."""
        return scores


def masked_loss(probs: Tensor, mask: Tensor, histogram: Tensor, num_instances: int) -> Tensor:
    """Return (B,) half the squared distance of masked probabilities and mean labels (Eq. 12).

    Args:
        probs: (B, C, N).
        mask: (B, N), each image's summing to K.
        histogram: (B, C), summing to 1.
        num_instances: K.
    """
    mean = (probs @ mask[..., None])[..., 0] / num_instances  # (B, C)
    return classification_loss(mean[:, None], histogram)


def entropy(scores: Tensor) -> Tensor:
    """Return the (B,) entropy of softmax over (B, N) scores, nats."""
    log_probs = scores.log_softmax(1)
    return -(log_probs.exp() * log_probs).sum(1)


def build_region_network(
    task: TaskSpec,
    *,
    networks: RegionNetworks,
    channels: int,
    blocks: int,
    stride: int,
    head_channels: int,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> tuple[RegionNetwork, dict[str, torch.optim.Optimizer]]:
    """Return the network of every mask method and its optimizers; see ``build``."""
    network = RegionNetwork(
        task.image_size[0], channels, blocks, stride, head_channels, task.num_classes, networks
    )
    detector = nn.ModuleList([network.trunk, network.score])
    optimizers = adam_pair(detector, network.logits, lr_detector, lr_task, betas)
    return network, optimizers


def build(
    task: TaskSpec,
    *,
    networks: RegionNetworks,
    detector_channels: int,
    detector_blocks: int,
    heatmap_stride: int,
    head_channels: int,
    operator: Literal["exact", "sinkhorn"],
    epsilon: float,
    iterations: int,
    nms_kernel: int,
    mirror: bool,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> MaskedClassifier:
    """Return Xie20 for ``task``.

    Args:
        task: classification; K is the mask's sum and the number of detections.
        networks: compact for images, features for frozen features.
        detector_channels: channels of the trunk.
        detector_blocks: residual blocks of the trunk.
        heatmap_stride: pixels per cell, 2 or 4; 1 on features.
        head_channels: channels of the 3x3 convolution before the score and the classes.
        operator: exact (closed form) or sinkhorn (the paper's iterations); both are the same mask.
        epsilon: weight of the transport's entropy, for scores from 0 to 1: higher is softer.
        iterations: Sinkhorn iterations; 0 where the operator is exact.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        mirror: whether training masks are made of scores in randomly reflected images.
        lr_detector: Adam's learning rate for the trunk and the score.
        lr_task: Adam's learning rate for the classes.
        betas: Adam's decay rates.

    Raises:
        ValueError: for another operator, or numbers that it cannot take.
    """
    if operator not in ("exact", "sinkhorn"):
        raise ValueError(f"operator must be exact or sinkhorn, got {operator!r}")
    if (operator == "exact") != (iterations == 0):
        raise ValueError(f"the {operator} operator cannot make {iterations} iterations")
    mask = partial(soft_top_k, epsilon=epsilon)
    if operator == "sinkhorn":
        mask = partial(sinkhorn_top_k, epsilon=epsilon, iterations=iterations)
    network, optimizers = build_region_network(
        task,
        networks=networks,
        channels=detector_channels,
        blocks=detector_blocks,
        stride=heatmap_stride,
        head_channels=head_channels,
        lr_detector=lr_detector,
        lr_task=lr_task,
        betas=betas,
    )
    return MaskedClassifier(
        network,
        mask,
        task=task,
        nms_kernel=nms_kernel,
        entropy_weight=0.0,
        mirror=mirror,
        optimizers=optimizers,
    )
