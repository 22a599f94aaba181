"""Task networks T_tau: what is done with a patch (Sec. 4.2, Appendix C.1), and their loss.

A head is what a method trains on boxes, whatever the task: it has ``supervision``, ``targets``,
``loss`` and ``predict``. This one classifies; ``models/autoencoder.py`` has the one that
reconstructs.

Shapes: B images, K patches, N patches in all, C channels or classes, p patch side.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mist_bench.models.feature_heads import FeatureClassifier
from mist_bench.models.heatmap import conv_norm
from mist_bench.models.paper import OfficialClassifier
from mist_bench.models.sampler import sample_patches
from mist_bench.models.specs import ClassifierSpec
from mist_bench.models.tensors import widened
from mist_bench.types import Batch, Prediction, Supervision

# residual blocks on patches of features: Appendix C.1's number, and the official code's
FEATURE_BLOCKS = {"features": 1, "official_features": 3}


class CompactClassifier(nn.Module):
    """A small convolutional classifier for CPUs (deviation: the paper's has 2.1 M parameters).

    Ends in an average over the patch, so that it does not care where in the patch an object is:
    a position-aware one learns cut digits faster than the keypoints move.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int):
        super().__init__()
        c = channels
        layers = [(in_channels, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 4 * c, 2)]
        layers.append((4 * c, 4 * c, 1))
        blocks = [
            nn.Sequential(conv_norm(i, o, 2 + stride, stride), nn.ReLU()) for i, o, stride in layers
        ]
        self.features = nn.Sequential(*blocks)
        self.logits = nn.Linear(4 * c, num_classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, num_classes) logits of (N, C, p, p) patches."""
        return self.logits(self.features(patches).mean((-2, -1)))


class BoxClassifier(nn.Module):
    """T(S(I, {x_k})): class probabilities of the patches under boxes (Sec. 4.2).

    Args:
        network: maps (N, C, p, p) patches to (N, classes) logits.
        num_classes: classes.
        patch_size: p, samples per side of a box.
        window: standard deviation of a Gaussian that patches are multiplied with, as a fraction
            of half their side; 0 for none. Not in the paper: it makes a centered object the
            easiest to classify, so that keypoints are drawn to centers.
        official_border: how patches that leave the image are sampled; see ``official_places``.
    """

    supervision: ClassVar[Supervision] = "labels"

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        patch_size: int,
        window: float,
        *,
        official_border: bool = False,
    ):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.num_classes, self.patch_size = num_classes, patch_size
        self.official_border = official_border
        axis = torch.linspace(-1, 1, patch_size)
        weight = torch.exp(-(axis**2) / (2 * window**2)) if window > 0 else torch.ones(patch_size)
        self.register_buffer("window", weight[:, None] * weight, persistent=False)

    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return (B, K, C) probabilities of the patches of (B, C, H, W) under (B, K, 4) boxes."""
        patches = sample_patches(
            images, boxes, self.patch_size, official_border=self.official_border
        )
        patches = patches * self.window  # (B, K, C, p, p)
        flat = patches.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return widened(self.network(flat)).softmax(-1).view(*boxes.shape[:2], -1)

    def targets(self, batch: Batch) -> Tensor:
        """Return (B, classes), what the loss compares with: the mean one-hot labels."""
        return label_histogram(batch.labels, self.num_classes)

    def loss(self, images: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
        """Return (B,) the loss of each image at its (B, K, 4) boxes (Eq. 9)."""
        return classification_loss(self(images, boxes), targets)

    @torch.no_grad()
    def presence(self, background: int, images: Tensor, boxes: Tensor) -> Tensor:
        """Return (B, K), how likely each of the (B, K, 4) boxes holds something."""
        return 1 - self(images, boxes)[..., background]

    def predict(self, images: Tensor, boxes: Tensor, scores: Tensor) -> list[Prediction]:
        """Return the classified (B, K, 4) boxes with their (B, K) scores."""
        return classified(boxes, scores, self(images, boxes))


def label_histogram(labels: list[Tensor], num_classes: int) -> Tensor:
    """Return (B, C) mean one-hot labels of each image, all that Eq. 9 is told; 0 for no label."""
    padded = pad_sequence(labels, batch_first=True, padding_value=-1)  # (B, L)
    classes = torch.arange(num_classes, device=padded.device)
    # not bincount, which makes a GPU tell the host the highest label
    counts = (padded[..., None] == classes).sum(1)  # (B, C)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def classification_loss(probs: Tensor, histogram: Tensor) -> Tensor:
    """Return (B,) half the squared distance of mean probabilities and mean labels (Eq. 9).

    The factor 1/2 is the official code's.

    Args:
        probs: (B, K, C).
        histogram: (B, C), summing to 1.
    """
    return 0.5 * (histogram - probs.mean(1)).square().sum(-1)


def build_classifier(
    in_channels: int, num_classes: int, spec: ClassifierSpec, *, official_border: bool = False
) -> BoxClassifier:
    """Return the classifier that MIST and its competitors share; see ``BoxClassifier``."""
    if spec.networks == "compact":
        network = CompactClassifier(in_channels, spec.channels, num_classes)
    elif spec.networks == "official":
        network = OfficialClassifier(in_channels, spec.channels, num_classes)
    else:
        blocks, normalized = FEATURE_BLOCKS[spec.networks], spec.networks == "features"
        network = FeatureClassifier(
            in_channels, spec.channels, blocks, num_classes, normalized=normalized
        )
    return BoxClassifier(
        network, num_classes, spec.patch_size, spec.window, official_border=official_border
    )


def classified(boxes: Tensor, scores: Tensor, probs: Tensor) -> list[Prediction]:
    """Return a batch's (B, K, 4) boxes, (B, K) scores and (B, K, C) probs as predictions."""
    return [Prediction(b, s, p.argmax(-1), p) for b, s, p in zip(boxes, scores, probs, strict=True)]
