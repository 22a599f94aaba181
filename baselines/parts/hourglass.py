"""The hourglass network of Zha18: convolutions down a pyramid and back, with skips at each level.

Not in the paper: the architecture of Zhang et al., CVPR 2018 (lmdis-rep, net_modules/hourglass.py).

Shapes: B images, C channels, h w map.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mist_bench.spec import Count, Natural, Spec

SLOPE = 0.2  # of leaky rectifiers for negative values
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]


class HourglassSpec(Spec):
    """The size of an hourglass."""

    levels: Annotated[tuple[Widths, ...], Field(min_length=1)] = Field(
        ((16, 16), (32, 32)),
        description="channels of each convolution on the way down, level by level, finest first",
    )
    skips: Natural = Field(1, description="convolutions in each skip")
    channels: Count = Field(
        16,
        description="channels of the layer before the output's; without effect where the finest "
        "level has one convolution",
    )


class Hourglass(nn.Module):
    """Maps (B, in_channels, h, w) to (B, out_channels, h, w); both sides divisible by 2^(levels-1).

    Each level convolves, hands a max-pooled map of half the size to the next, adds what comes back
    to its skip, and convolves in the mirrored order. All convolutions are 3x3 with batch norm.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        spec: its size.
        output: what follows the last convolution: batch norm and a leaky rectifier (activated),
            batch norm (normalized), or nothing but a bias (linear).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: HourglassSpec,
        output: Literal["activated", "normalized", "linear"] = "activated",
    ):
        super().__init__()
        widths, *coarser = spec.levels
        last = widths[-1]
        self.down = chain([in_channels, *widths])
        self.skip = chain([last] * (spec.skips + 1)) if coarser else None
        self.coarser = None
        if coarser:
            inner = HourglassSpec(levels=tuple(coarser), skips=spec.skips, channels=coarser[0][0])
            self.coarser = Hourglass(last, last, inner)
        back = [*widths[:0:-1], spec.channels] if len(widths) > 1 else [last]
        self.up = nn.Sequential(chain(back), LAST[output](back[-1], out_channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the output map of the same size."""
        maps = self.down(maps)
        if self.coarser is not None:
            coarse = self.coarser(F.max_pool2d(maps, 2))
            maps = self.skip(maps) + F.interpolate(coarse, scale_factor=2, mode="nearest")
        return self.up(maps)


def conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 3x3 convolution that keeps the size, and batch norm."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def conv_activated(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return ``conv_norm`` and a leaky rectifier."""
    return nn.Sequential(*conv_norm(in_channels, out_channels), nn.LeakyReLU(SLOPE))


def conv_linear(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, with a bias."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


LAST = {"activated": conv_activated, "normalized": conv_norm, "linear": conv_linear}


def chain(widths: Sequence[int]) -> nn.Sequential:
    """Return activated convolutions from each number of channels to the next."""
    return nn.Sequential(*(conv_activated(*pair) for pair in pairwise(widths)))
