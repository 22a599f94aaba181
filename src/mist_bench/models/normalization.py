"""Batch norm with the statistics of the image at hand, as a network that is never told to evaluate.

Shapes: B images, C channels, h w map.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class ImageNorm(nn.BatchNorm2d):
    """Batch norm that, in evaluation mode, normalizes each image by its own mean and variance.

    The official code never leaves training mode and tests with one image at a time (deviation B1),
    which is the same; here an image's result does not depend on its batch.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return normalized (B, C, h, w) features."""
        if self.training:
            return super().forward(features)
        return F.instance_norm(features, weight=self.weight, bias=self.bias, eps=self.eps)


def with_image_statistics(network: nn.Module) -> nn.Module:
    """Return ``network``, changed in place, with ``ImageNorm`` wherever it has batch norm."""
    if isinstance(network, nn.BatchNorm2d):
        norm = ImageNorm(network.num_features, network.eps, network.momentum)
        norm.load_state_dict(network.state_dict())
        return norm
    for name, child in network.named_children():
        setattr(network, name, with_image_statistics(child))
    return network
