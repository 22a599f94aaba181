"""The auto-encoder T_tau and the synthesis of an image from patches (Sec. 4.2, Appendix C.1).

Shapes: B images, K patches, N patches in all, C channels, H W image, p patch side.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mist_bench.boxes import whole_pixels
from mist_bench.models.paper import OfficialAutoencoder
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.models.specs import EncoderSpec
from mist_bench.models.tensors import to_device, widened
from mist_bench.types import Batch, Prediction, Supervision

ENERGY_FLOOR = 1.0  # of an empty image, so that its loss stays finite
EPSILON = 1e-6  # energy of an empty patch, whose contribution is 0
NUDGE = 2**-10  # px: too little to blur, enough for the slope of one side


class HiddenLayer(nn.Module):
    """A fully connected hidden layer, and a linear map beside it.

    Args:
        inputs: numbers per sample.
        width: units of the hidden layer.
        outputs: numbers per sample.
    """

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.hidden = nn.Sequential(
            *(nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.SiLU()),
            nn.Linear(width, outputs),
        )
        self.shortcut = nn.Linear(inputs, outputs, bias=False)

    def forward(self, samples: Tensor) -> Tensor:
        """Return (N, outputs) of (N, inputs)."""
        return self.hidden(samples) + self.shortcut(samples)


class CompactAutoencoder(nn.Module):
    """A fully connected auto-encoder of one hidden layer a side, for CPUs.

    Deviation: the paper's is convolutional, with residual blocks (Appendix C.1). On one core this
    one reaches a smaller error in the same time than small convolutional ones.

    Args:
        in_channels: C.
        width: units of the hidden layers.
        latents: size of the code between encoder and decoder.
        patch_size: p.
    """

    def __init__(self, in_channels: int, width: int, latents: int, patch_size: int):
        super().__init__()
        shape = (in_channels, patch_size, patch_size)
        inputs = in_channels * patch_size**2
        self.encoder = nn.Sequential(nn.Flatten(), HiddenLayer(inputs, width, latents))
        self.decoder = nn.Sequential(HiddenLayer(latents, width, inputs), nn.Unflatten(1, shape))

    def forward(self, patches: Tensor) -> Tensor:
        """Return (N, C, p, p), before its squashing, of (N, C, p, p)."""
        return self.decoder(self.encoder(patches))


class BoxAutoencoder(nn.Module):
    """Explains an image as the sum of auto-encoded patches (Sec. 4.2, Eq. 8).

    With ``whole_pixels``, patches are cut and pasted at the pixels nearest to their boxes: between
    pixels, interpolation there and back blurs the synthesis more than the auto-encoder does. (The
    official code's keypoints are whole pixels at test.) Boxes keep their places, and gradients
    reach them as if nothing had been rounded.

    Args:
        network: maps (N, C, p, p) patches to what is squashed into the range of the image.
        patch_size: p, samples per side of a patch.
        extent: side of the square around a box's center that is encoded, px; a box that fits an
            object's ink is smaller.
        signed: whether images are 0.5 + t / 2 of a signed signal t, as Gabor noise is. Then t is
            explained; otherwise the image is, as light on black.
        box_size: side of the box whose square is ``extent``, px, and larger boxes have larger
            squares; ``None`` for the same square around every box.
        whole_pixels: whether squares are moved to the nearest pixels.

    Raises:
        ValueError: if squares are to sit on pixels without having one sample for each.
    """

    supervision: ClassVar[Supervision] = "none"

    def __init__(
        self,
        network: nn.Module,
        patch_size: int,
        extent: float,
        signed: bool,
        box_size: float | None = None,
        whole_pixels: bool = False,
    ):
        super().__init__()
        if whole_pixels and (box_size is not None or extent != patch_size - 1):
            raise ValueError(
                "whole_pixels needs one scale and a sample per pixel, an extent of patch_size - 1: "
                f"got {extent:g} px for {patch_size} samples"
            )
        self.network = network.to(memory_format=torch.channels_last)
        self.patch_size, self.extent, self.signed = patch_size, extent, signed
        self.box_size, self.whole_pixels = box_size, whole_pixels

    def forward(self, signal: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the synthesis of (B, C, H, W) from (B, K, 4) boxes, and its (B, K, C, p, p)."""
        squares = self.squares(boxes)
        patches = sample_patches(signal, squares, self.patch_size)  # (B, K, C, p, p)
        flat = patches.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        decoded = widened(self.network(flat))
        decoded = (decoded.tanh() if self.signed else decoded.sigmoid()).view_as(patches)
        H, W = signal.shape[-2:]
        return paste_patches(decoded, squares, (H, W)), decoded

    @torch.no_grad()
    def marks(self, full_contribution: float, images: Tensor, boxes: Tensor) -> Tensor:
        """Return (B, K) from 0 to 1, whether each of the (B, K, 4) boxes adds to those before it.

        The contribution of a box is how far its decoded patch lowers the squared error that the
        boxes before it, whose scores are higher, leave, per unit of the patch's energy: 1 for a
        patch that is exactly what they leave, 0 or less for one that repeats what they explain.
        Not in the paper, where G has a mark for every keypoint.

        Args:
            full_contribution: the least contribution that counts as 1.
            images: (B, C, H, W) in [0, 1].
            boxes: (B, K, 4) cxcywh in pixels, best first.
        """
        rest = self.to_signal(images)
        squares = self.squares(boxes)
        _, decoded = self(rest, boxes)
        contributions = []
        for patch, square in zip(decoded.split(1, 1), squares.split(1, 1), strict=True):
            pasted = paste_patches(patch, square, rest.shape[-2:])
            energy = pasted.square().flatten(1).sum(1)
            gain = 2 * (rest * pasted).flatten(1).sum(1) - energy
            contributions.append(gain / energy.clamp(min=EPSILON))
            rest = rest - pasted
        return (torch.stack(contributions, 1) / full_contribution).clamp(0, 1)

    def squares(self, boxes: Tensor) -> Tensor:
        """Return the (B, K, 4) squares that are encoded around (B, K, 4) boxes, cxcywh in px."""
        if self.box_size is None:
            sides = torch.full_like(boxes[..., 2:], self.extent)
        else:
            sides = boxes[..., 2:] * self.extent / self.box_size
        return torch.cat([self.centers(boxes), sides], dim=-1)

    def centers(self, boxes: Tensor) -> Tensor:
        """Return the (B, K, 2) centers of the squares around (B, K, 4) boxes, px."""
        centers = boxes[..., :2]
        if not self.whole_pixels:
            return centers
        nearest = whole_pixels(centers.detach(), self.patch_size)
        if boxes.requires_grad:  # bilinear sampling has two slopes at a pixel: a random one of them
            side = to_device(torch.rand(centers.shape), centers.device) < 0.5
            nearest = nearest + NUDGE * torch.where(side, 1.0, -1.0)
        return centers + (nearest - centers).detach()

    def to_signal(self, images: Tensor) -> Tensor:
        """Return what is explained of images in [0, 1]: 0 where there is nothing."""
        return 2 * images - 1 if self.signed else images

    def to_image(self, signal: Tensor) -> Tensor:
        """Return a signal as an image; the inverse of ``to_signal``."""
        return (signal + 1) / 2 if self.signed else signal

    def targets(self, batch: Batch) -> Tensor:
        """Return (B, C, H, W), what the loss compares with: the images."""
        return batch.images

    def loss(self, images: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
        """Return (B,) the squared error of each image's synthesis, per unit of its energy (Eq. 8).

        Deviation: the paper does not divide; with it, images of any contrast weigh the same.
        """
        wanted = self.to_signal(targets)
        synthesis, _ = self(self.to_signal(images), boxes)
        error = (wanted - synthesis).square().flatten(1).sum(1)
        return error / wanted.square().flatten(1).sum(1).clamp(min=ENERGY_FLOOR)

    def predict(self, images: Tensor, boxes: Tensor, scores: Tensor) -> list[Prediction]:
        """Return the (B, K, 4) boxes with their (B, K) scores and the image made of them."""
        synthesis, patches = self(self.to_signal(images), boxes)
        return [
            Prediction(box, score, reconstruction=image, patches=parts)
            for box, score, image, parts in zip(
                boxes, scores, self.to_image(synthesis), patches, strict=True
            )
        ]


def build_autoencoder(
    in_channels: int,
    spec: EncoderSpec,
    *,
    extent: float,
    box_size: float | None = None,
    whole_pixels: bool = False,
) -> BoxAutoencoder:
    """Return the auto-encoder that MIST, grid and channel-wise share; see ``BoxAutoencoder``."""
    if spec.networks == "compact":
        network = CompactAutoencoder(in_channels, spec.width, spec.latents, spec.patch_size)
    else:
        network = OfficialAutoencoder(in_channels, spec.width)
    return BoxAutoencoder(network, spec.patch_size, extent, spec.signed, box_size, whole_pixels)
