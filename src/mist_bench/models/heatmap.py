"""Heatmap networks H_eta (Appendix A).

Shapes: B images, C channels, H W image, h w heatmap. A network returns (B, channels, h, w) with
h = H / stride: channel 0 is the response, channels 1 and 2 the x- and y-offset in cells where
there are any. Cell j of a map of stride s has its center at pixel s * j + (s - 1) / 2.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from mist_bench.models.feature_heads import FeatureHeatmap
from mist_bench.models.paper import OfficialHeatmap
from mist_bench.models.specs import HeatmapSpec


class CompactHeatmap(nn.Module):
    """A small network of stride 2 or 4 for CPUs (deviation: the paper's works at stride 1).

    Every block adds two cells to its receptive field. The larger that is, the more easily a
    detector that sees images only as they are settles at a constant offset from the objects. Batch
    norm instead of the official group norm, which mixes the whole map into every response.
    """

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int, outputs: int):
        super().__init__()
        half = channels // 2
        stem = [conv_norm(in_channels, half, 6, 2), nn.ReLU()]
        stem += [conv_norm(half, channels, 3 if stride == 2 else 4, stride // 2), nn.ReLU()]
        self.stride = stride
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(*[PreservingBlock(channels) for _ in range(blocks)])
        self.head = nn.Conv2d(channels, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw (B, outputs, h, w) map of (B, C, H, W) images."""
        return self.head(self.blocks(self.stem(images)))


class PreservingBlock(nn.Module):
    """A residual block of one 3x3 and one 1x1 convolution: depth without receptive field."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = conv_norm(channels, channels, 3, 1)
        self.pointwise = conv_norm(channels, channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same shape (B, C, h, w)."""
        return F.relu(features + self.pointwise(F.relu(self.spatial(features))))


def check_whole_cells(images: Tensor, stride: int) -> None:
    """Refuse images whose cells do not end where they do: mirrored or resized, all would move.

    Raises:
        ValueError: in one line, if a side of (B, C, H, W) images is no multiple of ``stride``.
    """
    H, W = images.shape[-2:]
    if H % stride or W % stride:
        raise ValueError(f"images must be a multiple of {stride} px high and wide, got {H}x{W}")


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Return a convolution that keeps the size up to its stride, and batch norm.

    With an odd kernel at stride 1 and an even one at stride 2, every output sits in the middle of
    the pixels it stands for; otherwise detections are pulled to one side.

    Raises:
        ValueError: for another combination.
    """
    if (kernel - stride) % 2:
        raise ValueError(f"a kernel of {kernel} at stride {stride} is off center")
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - stride) // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def build_heatmap(in_channels: int, spec: HeatmapSpec, outputs: int) -> nn.Module:
    """Return the heatmap network that MIST and its competitors share.

    Args:
        in_channels: C of the images or features.
        spec: which network, and its size.
        outputs: channels of the map.
    """
    sizes = (in_channels, spec.channels, spec.blocks)
    if spec.networks == "compact":
        return CompactHeatmap(*sizes, spec.stride, outputs)
    if spec.networks == "official":
        return OfficialHeatmap(*sizes, outputs)
    return FeatureHeatmap(*sizes, outputs, normalized=spec.networks == "features")
