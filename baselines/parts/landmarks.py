"""Landmarks out of heatmaps and back into an image, and the losses on landmarks alone (Zha18).

Not in the paper: the formulas of Zhang et al., CVPR 2018. Landmarks are xy in sides of the image
from its center, so that it spans [-1/2, 1/2]; a map's ``extent`` is its side in the same unit, more
than 1 where the image was padded.

Shapes: B images, K landmarks, D channels of features, h map side.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mist_bench.baselines.parts.hourglass import SLOPE, HourglassSpec
from mist_bench.spec import Count, Positive

VARIANCE_FLOOR = 1e-8  # the square root has no slope at zero
EMPTY = 1e-30  # sum of a map that has underflowed: its landmark is then the image's center


class DecoderSpec(HourglassSpec):
    """The hourglass that draws an image, and what landmarks and descriptors give it."""

    descriptors: Count = Field(8, description="size of a landmark's descriptor")
    gaussians: Count = Field(
        3, description="Gaussians per landmark, each sqrt(2) wider than the one before"
    )
    gaussian_std: Positive = Field(
        0.125, description="standard deviation of the narrowest, sides of the image"
    )


def cell_centers(size: int, extent: float, like: Tensor) -> Tensor:
    """Return the (size,) places of a map's cells along one axis."""
    cells = torch.arange(size, dtype=like.dtype, device=like.device)
    return ((cells + 0.5) / size - 0.5) * extent


def moments(maps: Tensor, extent: float) -> tuple[Tensor, Tensor]:
    """Return the spatial mean of each heatmap and its spread.

    Args:
        maps: (B, K, h, h) non-negative, of any sum.
        extent: side of the map, in sides of the image.

    Returns:
        (B, K, 2) landmarks xy and (B, K) isotropic standard deviations, the mean of the axes',
        both in sides of the image.
    """
    places = cell_centers(maps.shape[-1], extent, maps)
    axes = torch.stack([maps.sum(2), maps.sum(3)], dim=2)  # (B, K, 2, h): over x, over y
    probs = axes / axes.sum(-1, keepdim=True).clamp(min=EMPTY)
    mean = (probs * places).sum(-1)
    variance = (probs * (places - mean[..., None]).square()).sum(-1)
    return mean, (variance + VARIANCE_FLOOR).sqrt().mean(-1)


def concentration(std: Tensor) -> Tensor:
    """Return exp(entropy) of isotropic Gaussians, 2 pi e std^2: the area that they cover."""
    return 2 * math.pi * math.e * std.square()


def separation(landmarks: Tensor, width: float) -> Tensor:
    """Return the (B,) sum of exp(-d^2 / (2 width^2)) over all ordered pairs of (B, K, 2)."""
    gaps = (landmarks[:, :, None] - landmarks[:, None]).square().sum(-1)  # (B, K, K)
    nearness = (-gaps / (2 * width**2)).exp()
    others = 1 - torch.eye(landmarks.shape[1], dtype=gaps.dtype, device=gaps.device)
    return (nearness * others).sum((1, 2))


def equivariance(landmarks: Tensor, returned: Tensor) -> Tensor:
    """Return the (B,) sum of squared distances between landmarks and those brought back.

    In half sides of the image, in which the published weight holds.

    Args:
        landmarks: (B, K, 2) of the images.
        returned: (B, K, 2) of the warped images, each brought back to where it was.
    """
    return (2 * (landmarks - returned)).square().sum((1, 2))


def gaussian_maps(landmarks: Tensor, std: float, size: int) -> Tensor:
    """Return what share each landmark has in each cell of the image, the background last.

    Densities of Gaussians at the landmarks and of an even background, 1, normalized to sum to 1.

    Args:
        landmarks: (B, K, 2).
        std: standard deviation, in sides of the image.
        size: h.

    Returns:
        (B, K + 1, h, h).
    """
    places = cell_centers(size, 1, landmarks)
    axes = (-(places - landmarks[..., None]).square() / (2 * std**2)).exp()  # (B, K, 2, h)
    maps = axes[:, :, 1, :, None] * axes[:, :, 0, None] / (2 * math.pi * std**2)
    maps = torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1)
    return maps / maps.sum(1, keepdim=True)


def pool_features(features: Tensor, maps: Tensor) -> Tensor:
    """Return the (B, K, D) means of (B, D, h, h) features, weighted by (B, K, h, h) heatmaps."""
    weights = maps.flatten(2)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=EMPTY)
    return weights @ features.flatten(2).transpose(1, 2)


def spread_features(features: Tensor, maps: Tensor) -> Tensor:
    """Return the (B, D, h, h) sum of (B, K, h, h) maps, each times its (B, K, D) features."""
    return (features.transpose(1, 2) @ maps.flatten(2)).unflatten(2, maps.shape[-2:])


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
