"""How images are scaled before a pretrained network sees them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """A network that sees images scaled channel by channel.

    Args:
        network: maps (B, 3, H, W) to features.
        mean: subtracted from each channel of an image in [0, 1].
        std: what the difference is divided by, > 0.

    Raises:
        ValueError: if these are not three numbers each.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"mean and std must be three numbers, std > 0; got {mean} and {std}")
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of (B, 3, H, W) images in [0, 1]."""
        return self.network((images - self.mean) / self.std)
