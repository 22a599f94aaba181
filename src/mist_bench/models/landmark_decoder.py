"""The decoder of Zha18: from landmarks and their descriptors to an image.

Not in the paper: the architecture of Zhang et al., CVPR 2018 (lmdis-rep, keypoint_decoder.py).

Shapes: B images, K landmarks, C channels, H image side, h map side, D channels of features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mist_bench.models.hourglass import SLOPE
from mist_bench.models.landmark_maps import gaussian_maps, spread_features


class LinearPerLandmark(nn.Module):
    """An own linear map for each landmark and the background: (B, K, D) to (B, K, out)."""

    def __init__(self, landmarks: int, in_features: int, out_features: int):
        super().__init__()
        bound = in_features**-0.5  # as in a linear layer
        self.weight = nn.Parameter(torch.empty(landmarks, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """Return the mapped features."""
        return (features.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias


class LandmarkDecoder(nn.Module):
    """The image of landmarks and their descriptors.

    Args:
        network: maps ``len(stds)`` groups of K + 1 heatmaps and D features to the image's pixels,
            those of a cell of ``stride`` x ``stride`` in its channels.
        expand: maps descriptors to D features.
        stds: of the Gaussians of each group, in sides of the image.
        size: h, cells a side.
        stride: pixels a cell, on each axis.
    """

    def __init__(
        self, network: nn.Module, expand: nn.Module, stds: Sequence[float], size: int, stride: int
    ):
        super().__init__()
        self.network, self.expand = network, expand
        self.stds, self.size, self.stride = stds, size, stride

    def forward(self, landmarks: Tensor, descriptors: Tensor) -> Tensor:
        """Return (B, C, H, H) in (0, 1) for (B, K, 2) landmarks and (B, K + 1, ...) descriptors."""
        features = F.leaky_relu(self.expand(descriptors), SLOPE)
        levels = [gaussian_maps(landmarks, std, self.size) for std in self.stds]
        spread = [spread_features(features, maps) for maps in levels]
        cells = torch.cat([*levels, *spread], dim=1)
        cells = self.network(cells.contiguous(memory_format=torch.channels_last))
        return F.pixel_shuffle(cells, self.stride).sigmoid()
