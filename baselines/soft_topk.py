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
from pydantic import Field
from torch import Tensor, nn

from mist_bench.baselines.parts.masks import sinkhorn_top_k, soft_top_k
from mist_bench.models.detector import gather_cells
from mist_bench.models.heads import classification_loss, classified, label_histogram
from mist_bench.models.heatmap import CompactHeatmap, PreservingBlock, check_whole_cells, conv_norm
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.selection import to_keypoints, top_k
from mist_bench.models.specs import AdamPairSpec, HeatmapSpec
from mist_bench.models.tensors import widened
from mist_bench.models.views import Mirror
from mist_bench.spec import Count, Natural, OddCount, Positive
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec

MaskOperator = Callable[[Tensor, int], Tensor]


class RegionSpec(HeatmapSpec):
    """The network of every mask method (U13: the paper gives no size)."""

    networks: Literal["compact", "features"] = Field(
        "compact", description="compact for images, features for frozen features"
    )
    channels: Count = Field(32, description="channels of the trunk")
    blocks: Natural = Field(
        0,
        description="residual blocks of the trunk; where a location sees 36 px (2) instead of 20 "
        "(0), scores settle beside the digits",
    )
    head_channels: Count = Field(
        256, description="channels of the 3x3 convolution before the score and the classes"
    )


class RegionNetwork(nn.Module):
    """Scores and classifies every location of a map.

    Args:
        in_channels: C.
        classes: number of classes.
        spec: its size.
    """

    def __init__(self, in_channels: int, classes: int, spec: RegionSpec):
        super().__init__()
        channels, head = spec.channels, spec.head_channels
        if spec.networks == "compact":
            trunk = CompactHeatmap(in_channels, channels, spec.blocks, spec.stride, outputs=1)
            layers = [trunk.stem, trunk.blocks]
        else:
            stem = conv_norm(in_channels, channels, 1, 1)
            layers = [nn.BatchNorm2d(in_channels), stem, nn.ReLU()]
            layers += [PreservingBlock(channels) for _ in range(spec.blocks)]
        self.stride = spec.stride
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
    """A region network trained through a mask of its scores.

    Args:
        operator: maps (B, N) scores and K to a mask (B, N) that sums to K.
        task: classification; K is the mask's sum and the number of detections.
        network: size of the network.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        mirror: whether the mask of a training step is made of scores in random reflections of the
            images, as MIST's detector sees them: scores cannot settle at one side of the objects.
        adam: ``detector`` steps the trunk and the score, ``task`` the classes.
        entropy_weight: weight of the entropy of softmax(scores), which is maximized; 0 for none.
    """

    supervision: ClassVar[Supervision] = "labels"

    def __init__(
        self,
        operator: MaskOperator,
        task: TaskSpec,
        *,
        network: RegionSpec,
        nms_kernel: int,
        mirror: bool,
        adam: AdamPairSpec,
        entropy_weight: float = 0,
    ):
        super().__init__()
        self.operator, self.task, self.nms_kernel = operator, task, nms_kernel
        self.entropy_weight, self.mirror = entropy_weight, mirror
        parts = RegionNetwork(task.image_size[0], task.num_classes, network)
        self.network = parts.to(memory_format=torch.channels_last)
        scoring = nn.ModuleList([parts.trunk, parts.score])
        self.optimizers = adam_pair(scoring, parts.logits, adam)

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


def build(
    task: TaskSpec,
    *,
    network: RegionSpec = RegionSpec(),
    epsilon: Positive = 0.05,
    iterations: Natural = 0,
    nms_kernel: OddCount = 3,
    mirror: bool = True,
    adam: AdamPairSpec = AdamPairSpec(),
) -> MaskedClassifier:
    """Return Xie20 for ``task``.

    Args:
        task: classification; K is the mask's sum and the number of detections.
        network: what scores and classifies every location.
        epsilon: weight of the transport's entropy, for scores from 0 to 1: higher is softer.
        iterations: the paper's Sinkhorn iterations; 0 for their limit in closed form.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        mirror: whether training masks are made of scores in randomly reflected images, without
            which scores settle at one side of the objects.
        adam: the optimizers of the trunk with the score, and of the classes.
    """
    operator = partial(soft_top_k, epsilon=epsilon)
    if iterations:
        operator = partial(sinkhorn_top_k, epsilon=epsilon, iterations=iterations)
    return MaskedClassifier(
        operator, task, network=network, nms_kernel=nms_kernel, mirror=mirror, adam=adam
    )


def check(task: TaskSpec) -> None:
    """Raise a ``ValueError`` for a task without labels."""
    if task.kind != "classification":
        raise ValueError(f"masks of scores do classification only, not {task.kind}")
