"""The paper's networks for MNIST, as the official code has them (Appendix A and C.1).

Layers follow ubc-vision/mist, models/{net,detector,classifier}.py (Apache-2.0); written anew.

Shapes: B images, N patches, C channels, H W image, h w map, p patch side.
"""

import torch.nn.functional as F
from torch import Tensor, nn

LEVELS, BLOCKS_PER_LEVEL = 5, 3  # of the encoder (Appendix C.1)


class SharedNormBlock(nn.Module):
    """A residual block of two 3x3 convolutions, with one normalization used after both.

    Deviation D8: the paper normalizes before each convolution. A group norm of one group is a
    layer norm over channels and space.

    Args:
        channels: C, in and out.
        padding: 1 to keep the size, 0 for valid convolutions that lose 2 px on each side.
    """

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=padding)
        self.second = nn.Conv2d(channels, channels, 3, padding=padding)
        self.norm = nn.GroupNorm(1, channels)
        self.crop = 2 * (1 - padding)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, h, w) features of (B, C, h, w), or of (B, C, h + 4, w + 4) if valid."""
        branch = self.norm(self.second(F.relu(self.norm(self.first(features)))))
        h, w = features.shape[-2:]
        skip = features[..., self.crop : h - self.crop, self.crop : w - self.crop]
        return F.relu(skip + branch)


class ResidualStage(nn.Module):
    """A 1x1 convolution to another number of channels, then residual blocks."""

    def __init__(self, in_channels: int, channels: int, blocks: int, *, padding: int):
        super().__init__()
        self.pointwise = nn.Conv2d(in_channels, channels, 1)
        self.blocks = nn.Sequential(*[SharedNormBlock(channels, padding) for _ in range(blocks)])

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, channels, h, w) features, smaller by 4 px a block if ``padding`` is 0."""
        return self.blocks(self.pointwise(features))


class OfficialHeatmap(nn.Module):
    """H_eta at the resolution of the image (Appendix A, official code models/detector.py:141).

    The image is extended by reflection, so that valid convolutions end at its size. With the
    paper's 4 blocks, convolutions see 17 x 17 px; the norms mix in the statistics of the whole map.

    Args:
        in_channels: C of the images, or as many copies of the channel of gray ones.
        channels: channels inside; 32 in the paper.
        blocks: residual blocks; 4 in the paper.
        outputs: 1 for the response alone, 3 with offsets, K for one channel per patch.
    """

    stride = 1  # px per cell

    def __init__(self, in_channels: int, channels: int, blocks: int, outputs: int):
        super().__init__()
        self.in_channels = in_channels
        self.margin = 2 * blocks
        self.norm = nn.BatchNorm2d(in_channels)
        self.stage = ResidualStage(in_channels, channels, blocks, padding=0)
        self.head = nn.Conv2d(channels, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the raw (B, outputs, H, W) map of (B, C, H, W) images."""
        images = images.expand(-1, self.in_channels, -1, -1)
        padded = F.pad(images, (self.margin,) * 4, mode="reflect")
        return self.head(self.stage(self.norm(padded)))


class OfficialEncoder(nn.Module):
    """Patches to vectors (Appendix C.1, official code models/classifier.py:88).

    Args:
        in_channels: C of the patches, or as many copies of the channel of gray ones.
        channels: channels of the first level, doubled at each of the next four; 8 in the paper.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        widths = [channels * 2**level for level in range(LEVELS)]
        pairs = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.levels = nn.ModuleList(
            ResidualStage(inside, width, BLOCKS_PER_LEVEL, padding=1) for inside, width in pairs
        )
        self.last = ResidualStage(widths[-1], widths[-1], BLOCKS_PER_LEVEL, padding=1)
        self.in_channels, self.out_channels = in_channels, widths[-1]

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, 16 * channels) vectors of (N, C, 32, 32) patches."""
        patches = patches.expand(-1, self.in_channels, -1, -1)
        for level in self.levels:
            patches = F.max_pool2d(level(patches), 2)
        return self.last(patches).flatten(1)


class OfficialClassifier(nn.Module):
    """The encoder and a dense layer (Appendix C.1); see ``OfficialEncoder``."""

    def __init__(self, in_channels: int, channels: int, num_classes: int):
        super().__init__()
        self.encoder = OfficialEncoder(in_channels, channels)
        self.logits = nn.Linear(self.encoder.out_channels, num_classes)

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, num_classes) logits of (N, C, 32, 32) patches."""
        return self.logits(self.encoder(patches))


class OfficialDecoder(nn.Module):
    """Vectors to patches, the encoder mirrored (Appendix C.1; there is no official code).

    Each level doubles the side by a 2x2 transposed convolution of stride 2, then has the encoder's
    residual blocks. How many channels each level has is not given: the encoder's.
    """

    def __init__(self, out_channels: int, channels: int):
        super().__init__()
        widths = [channels * 2**level for level in reversed(range(LEVELS))]
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.levels = nn.Sequential(
            *[
                nn.Sequential(
                    nn.ConvTranspose2d(inside, width, 2, 2),
                    *[SharedNormBlock(width, 1) for _ in range(BLOCKS_PER_LEVEL)],
                )
                for inside, width in pairs
            ]
        )
        self.head = nn.Conv2d(channels, out_channels, 1)

    def forward(self, codes: Tensor) -> Tensor:
        """Return (N, C, 32, 32) of (N, 16 * channels) codes, before the sigmoid."""
        return self.head(self.levels(codes[:, :, None, None]))


class OfficialAutoencoder(nn.Module):
    """The encoder and its mirror (Appendix C.1); see ``OfficialEncoder``."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.encoder = OfficialEncoder(in_channels, channels)
        self.decoder = OfficialDecoder(in_channels, channels)

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, C, 32, 32), before the sigmoid, of (N, C, 32, 32) patches."""
        return self.decoder(self.encoder(patches))


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
