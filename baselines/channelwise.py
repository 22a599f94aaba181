"""Channel-wise: one heatmap channel per patch, located by a soft-argmax (Sec. 5.1 and 5.2).

MIST's networks, except that the heatmap has K channels, each dedicated to one patch. The location
is the expectation of a softmax over space ("a channel-wise soft-argmax as in [57]"), so that the
task loss (Eq. 8 or 9) reaches the heatmap network and everything trains end to end.

Shapes: B images, K channels and patches, C classes, H W image, h w heatmap.
"""

from typing import Annotated

import torch
from torch import Tensor, nn

from mist_bench.models.autoencoder import BoxAutoencoder, build_autoencoder
from mist_bench.models.heads import BoxClassifier, build_classifier
from mist_bench.models.heatmap import build_heatmap
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.specs import AdamPairSpec, AutoencoderSpec, ClassifierSpec, HeatmapSpec
from mist_bench.models.tensors import widened
from mist_bench.models.views import View
from mist_bench.spec import Only, Positive
from mist_bench.types import Batch, Prediction, TaskSpec


def spatial_softargmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each channel's softmax over space has its mean, and its peak.

    Args:
        logits: (B, K, h, w).

    Returns:
        (B, K, 2) xy in cells, differentiable, and (B, K) the largest probability.
    """
    h, w = logits.shape[-2:]
    probs = logits.flatten(2).softmax(-1).view_as(logits)
    x = torch.arange(w, dtype=logits.dtype, device=logits.device)
    y = torch.arange(h, dtype=logits.dtype, device=logits.device)
    mean = torch.stack([(probs.sum(2) * x).sum(-1), (probs.sum(3) * y).sum(-1)], dim=-1)
    return mean, probs.flatten(2).amax(-1)


class ChannelWise(nn.Module):
    """K heatmap channels, K patches, one shared task network; see ``build``."""

    def __init__(
        self,
        network: nn.Module,
        head: BoxClassifier | BoxAutoencoder,
        *,
        task: TaskSpec,
        temperature: float,
        mirror: bool,
        optimizers: dict[str, torch.optim.Optimizer],
    ):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.head, self.supervision, self.task = head, head.supervision, task
        self.temperature, self.mirror = temperature, mirror
        self.optimizers = optimizers

    def locate(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, K, 4) boxes in pixels, with gradient, and (B, K) scores."""
        keypoints, scores = spatial_softargmax(widened(self.network(images)) / self.temperature)
        s = self.network.stride
        centers = keypoints * s + (s - 1) / 2
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        return boxes, scores

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step both networks end to end on the task loss and return it."""
        images = batch.images
        view = View(images, mirror=self.mirror)
        boxes, _ = self.locate(view.images(images))
        boxes = view.boxes(boxes)  # a reflection undoes itself
        loss = self.head.loss(images, boxes, self.head.targets(batch)).mean()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return what the head makes of K boxes per image, in the order of the channels."""
        return self.head.predict(images, *self.locate(images))


def build(
    task: TaskSpec,
    *,
    heatmap: HeatmapSpec = HeatmapSpec(),
    temperature: Positive = 1,
    classifier: Annotated[ClassifierSpec, Only("classification")] = ClassifierSpec(),
    autoencoder: Annotated[AutoencoderSpec, Only("reconstruction")] = AutoencoderSpec(
        whole_pixels=False
    ),
    mirror: bool = False,
    adam: AdamPairSpec = AdamPairSpec(),
) -> ChannelWise:
    """Return the channel-wise baseline for ``task``; its networks are MIST's.

    Args:
        task: its kind decides on the head; K is the number of heatmap channels.
        heatmap: the heatmap network.
        temperature: divisor of the heatmap before the softmax over space.
        classifier: what classifies patches.
        autoencoder: what encodes and decodes patches.
        mirror: whether the heatmap network sees randomly reflected images in training.
        adam: the optimizers of the heatmap network and the head.
    """
    channels = task.image_size[0]
    network = build_heatmap(channels, heatmap, outputs=task.num_instances)
    if task.kind == "classification":
        head = build_classifier(channels, task.num_classes, classifier)
    else:
        head = build_autoencoder(
            channels,
            autoencoder,
            extent=autoencoder.extent,
            whole_pixels=autoencoder.whole_pixels,
        )
    return ChannelWise(
        network,
        head,
        task=task,
        temperature=temperature,
        mirror=mirror,
        optimizers=adam_pair(network, head, adam),
    )
