"""S and its generalized inverse: patches out of an image and back into it (Sec. 4.1, 4.2).

Boxes are axis-aligned, so bilinear sampling separates: each axis is one product with a matrix of
hat weights ``max(0, 1 - |t - i|)``. Equal to ``grid_sample(align_corners=True)`` with zero
padding, values and gradients, and deterministic on CUDA, where ``grid_sample`` is not.

Shapes: B images, K boxes, C channels, H W image, p patch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def sampling_axis(center: Tensor, extent: Tensor, size: int) -> Tensor:
    """Return where boxes sample one axis; the outer samples lie on the box edge (official code).

    Args:
        center: (B, K) box centers on this axis, in pixels.
        extent: (B, K) box sides on this axis, in pixels.
        size: p, samples per box; at least 2.

    Returns:
        (B, K, p) coordinates in pixels; a pixel's center is an integer.
    """
    steps = torch.linspace(-0.5, 0.5, size, dtype=center.dtype, device=center.device)
    return center[..., None] + extent[..., None] * steps


def hat_weights(coordinates: Tensor, length: int) -> Tensor:
    """Return the bilinear weight of every pixel of an axis in every sample.

    Args:
        coordinates: (..., p) in pixels.
        length: pixels on the axis.

    Returns:
        (..., p, length); rows sum to 1 inside the image and fade to 0 within a pixel outside.
    """
    return _HatWeights.apply(coordinates, length)


class _HatWeights(torch.autograd.Function):
    """1 - |d|, not below 0, at each distance d = coordinate - pixel.

    The slope is that of d in [-1, 0) and in [0, 1); abs and clamp would have none at a pixel's
    center, where the official keypoints start.
    """

    @staticmethod
    def forward(ctx: Any, coordinates: Tensor, length: int) -> Tensor:
        pixels = torch.arange(length, dtype=coordinates.dtype, device=coordinates.device)
        distance = coordinates[..., None] - pixels
        ctx.save_for_backward(distance)
        return distance.abs().neg_().add_(1).clamp_(min=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        # -1 and 1 in the two intervals, odd numbers beyond +-2 elsewhere; faster than comparisons
        place = distance.floor().mul_(2).add_(1)
        slope = F.hardshrink(place, 2).sub_(place)
        return slope.mul_(grad).sum(-1), None


def official_places(coordinates: Tensor, length: int) -> Tensor:
    """Return the places that the official code reads on an axis, for ``hat_weights``.

    Up to a pixel before the image it repeats the first pixel, without a gradient; from the center
    of the last pixel on it reads nothing, where weights must be 0 (models/spatialtransform.py;
    deviation A2).

    Args:
        coordinates: (...) in pixels.
        length: pixels on the axis.
    """
    read = (coordinates > -1) & (coordinates < length - 1)
    return torch.where(read, coordinates.clamp(min=0), -2.0)


def box_weights(
    boxes: Tensor, image_size: tuple[int, int], size: int, *, official_border: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the (B, K, p, H) and (B, K, p, W) hat weights of ``boxes``.

    Args:
        boxes: (B, K, 4) cxcywh, in pixels.
        image_size: (H, W).
        size: p, samples per side.
        official_border: whether samples outside are those of ``official_places``.

    Raises:
        ValueError: if ``boxes`` is not (B, K, 4) or ``size`` is below 2.
    """
    if boxes.dim() != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be (B, K, 4), got {tuple(boxes.shape)}")
    if size < 2:
        raise ValueError(f"a patch needs at least 2 samples a side, got {size}")
    x, y, width, height = boxes.unbind(-1)
    rows, columns = sampling_axis(y, height, size), sampling_axis(x, width, size)
    if official_border:
        rows = official_places(rows, image_size[0])
        columns = official_places(columns, image_size[1])
    return hat_weights(rows, image_size[0]), hat_weights(columns, image_size[1])


def sample_patches(
    images: Tensor, boxes: Tensor, size: int, *, official_border: bool = False
) -> Tensor:
    """Return the patches under ``boxes``: S(I, {x_k}) of Sec. 4.1, zero outside the image.

    Args:
        images: (B, C, H, W).
        boxes: (B, K, 4) cxcywh, in pixels; differentiable.
        size: p, samples per side; the outer ones lie on the box edge.
        official_border: whether samples outside are those of ``official_places``.

    Returns:
        (B, K, C, p, p).
    """
    B, C, H, W = images.shape
    K = boxes.shape[1]
    rows, columns = box_weights(boxes, (H, W), size, official_border=official_border)
    bands = rows.reshape(B, 1, K * size, H) @ images  # (B, C, K*p, W)
    bands = bands.reshape(B, C, K, size, W).transpose(1, 2)  # (B, K, C, p, W)
    return bands @ columns.transpose(-1, -2)[:, :, None]  # (B, K, C, p, p)


def paste_patches(patches: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the sum of patches put back at their boxes: S^-1(P_k, x_k) of Eq. 8.

    A pixel at u reads patch k at ((u - x) / w + 1/2)(p - 1), bilinearly, and nothing more than one
    sample outside of it.

    Args:
        patches: (B, K, C, p, p).
        boxes: (B, K, 4) cxcywh, in pixels; differentiable; sizes > 0.
        image_size: (H, W).

    Returns:
        (B, C, H, W).
    """
    B, K, C, p, _ = patches.shape
    x, y, width, height = boxes.unbind(-1)
    rows = pixel_weights(y, height, image_size[0], p)  # (B, K, H, p)
    columns = pixel_weights(x, width, image_size[1], p)
    bands = patches @ columns.transpose(-1, -2)[:, :, None]  # (B, K, C, p, W)
    bands = bands.transpose(1, 2).reshape(B, C, K * p, image_size[1])
    return rows.transpose(1, 2).reshape(B, 1, image_size[0], K * p) @ bands


def pixel_weights(center: Tensor, extent: Tensor, length: int, size: int) -> Tensor:
    """Return the bilinear weight of every patch sample in every pixel of one axis.

    Args:
        center: (B, K) box centers on this axis, in pixels.
        extent: (B, K) box sides on this axis, in pixels.
        length: pixels on the axis.
        size: p, samples of the patch; the outer ones lie on the box edge.

    Returns:
        (B, K, length, p).
    """
    pixels = torch.arange(length, dtype=center.dtype, device=center.device)
    place = (pixels - center[..., None]) / extent[..., None] + 0.5
    return hat_weights(place * (size - 1), size)
