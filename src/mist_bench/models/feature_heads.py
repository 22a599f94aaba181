"""Networks on frozen features: the heads of PASCAL+COCO (Sec. 5.2, Appendix A and C.1).

Shapes: B images, N patches, C channels of the features, h w map, p patch side.
"""

from itertools import pairwise

from torch import Tensor, nn

from mist_bench.models.paper import ResidualStage


class FeatureHeatmap(nn.Module):
    """H_eta on features: 3x3 convolutions, then a 1x1 one (Appendix A names the last alone).

    The official code (models/detector.py:106) has one 3x3 convolution of 32 channels.

    Args:
        in_channels: C.
        channels: channels of the 3x3 convolutions.
        blocks: 3x3 convolutions.
        outputs: 1 for the response alone, 3 with offsets.
        normalized: batch norm before the first convolution: features of different channels differ
            in scale (not in the paper).
    """

    stride = 1  # cells of the features per cell of the map

    def __init__(
        self, in_channels: int, channels: int, blocks: int, outputs: int, *, normalized: bool
    ):
        super().__init__()
        widths = [in_channels, *[channels] * blocks]
        layers: list[nn.Module] = [nn.BatchNorm2d(in_channels)] if normalized else []
        for inside, width in pairwise(widths):
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], outputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the raw (B, outputs, h, w) map of (B, C, h, w) features."""
        return self.head(self.features(features))


class FeatureClassifier(nn.Module):
    """Patches of features to logits: residual blocks, an average over the patch, a dense layer.

    Appendix C.1 has a single residual block; the official code (models/classifier.py:14) 3 blocks
    of 512 channels.

    Args:
        in_channels: C.
        channels: channels of the blocks.
        blocks: residual blocks.
        num_classes: logits.
        normalized: batch norm before the first layer, as ``FeatureHeatmap``'s.
    """

    def __init__(
        self, in_channels: int, channels: int, blocks: int, num_classes: int, *, normalized: bool
    ):
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels) if normalized else nn.Identity()
        self.stage = ResidualStage(in_channels, channels, blocks, padding=1)
        self.logits = nn.Linear(channels, num_classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, num_classes) logits of (N, C, p, p) patches."""
        return self.logits(self.stage(self.norm(patches)).mean((-2, -1)))
