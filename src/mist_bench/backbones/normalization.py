"""How images are scaled before a pretrained network sees them."""

import torch
from torch import Tensor, nn

from mist_bench.spec import Positive

Mean = tuple[float, float, float]
Std = tuple[Positive, Positive, Positive]


class Normalized(nn.Module):
    """A network that sees images scaled channel by channel.

    Args:
        network: maps (B, 3, H, W) to features.
        mean: subtracted from each channel of an image in [0, 1].
        std: what the difference is divided by.
    """

    def __init__(self, network: nn.Module, mean: Mean, std: Std):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of (B, 3, H, W) images in [0, 1]."""
        return self.network((images - self.mean) / self.std)
