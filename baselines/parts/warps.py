"""Random warps of images, under which a detector of landmarks must be equivariant (Zha18).

Not in the paper: the transform of Zhang et al., CVPR 2018, a thin-plate spline and a similarity.
Coordinates are xy in [-1, 1] between the outer edges of an image, as ``grid_sample`` has them.

Shapes: B images, C channels, H W image, n control points a side, N = n * n, P points.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mist_bench.models.tensors import to_device
from mist_bench.spec import NonNegative, Spec

KERNEL_FLOOR = 1e-6  # keeps r^2 log r^2 differentiable at a control point


class WarpSpec(Spec):
    """How far random warps go."""

    points: Annotated[int, Field(ge=2)] = Field(
        7, description="control points of the thin-plate spline, a side"
    )
    bending: NonNegative = Field(
        0.05, description="standard deviation of their displacement; 1 is half of the padded image"
    )
    translation: NonNegative = Field(
        0.3, description="largest translation on each axis; 1 is half of the padded image"
    )
    rotation: NonNegative = Field(10, description="standard deviation of the rotation, degrees")
    scaling: NonNegative = Field(
        0.2231, description="standard deviation of the logarithm of the scale"
    )


@dataclass(frozen=True)
class Warp:
    """A map from places in a warped image to places in the original: first affine, then spline.

    Attributes:
        affine: (B, 2, 3) matrix and translation.
        side: n, of the spline's control points, which are the centers of n x n pixels.
        weights: (B, N + 3, 2) of the spline: of each control point, of 1, of x and of y.
    """

    affine: Tensor
    side: int
    weights: Tensor

    def points(self, points: Tensor) -> Tensor:
        """Return where (B, P, 2) points of the warped images are in the originals."""
        return self.bend(self.move(points))

    def move(self, points: Tensor) -> Tensor:
        """Return (B, P, 2) or (1, P, 2) points after the affine map."""
        return points @ self.affine[..., :2].transpose(1, 2) + self.affine[:, None, :, 2]

    def bend(self, points: Tensor) -> Tensor:
        """Return (B, P, 2) points after the spline."""
        controls = pixel_centers(self.side, self.side, points)
        return points + spline_basis(points, controls) @ self.weights

    def images(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W) images warped; beyond an edge its last pixel goes on.

        Resampled twice, as in the authors' code: the spline is then the same sum for every image.
        """
        size, kind = images.shape[-2:], self.weights
        centers, basis = center_basis(*size, self.side, kind.dtype, kind.device)
        images = sample(images, centers + basis @ self.weights)
        return sample(images, self.move(centers[None]))


def sample(images: Tensor, places: Tensor) -> Tensor:
    """Return (B, C, H, W) images read at (B, H * W, 2) places, bilinearly.

    Not for images with a gradient, which would not be deterministic on CUDA.
    """
    grid = places.unflatten(1, images.shape[-2:])
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def pixel_centers(height: int, width: int, like: Tensor) -> Tensor:
    """Return the (height * width, 2) xy centers of an image's pixels, row by row."""
    x, y = ((2 * torch.arange(size, device=like.device) + 1) / size - 1 for size in (width, height))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    return grid.flatten(0, 1).to(like.dtype)


@lru_cache(maxsize=4)
def center_basis(
    height: int, width: int, side: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return an image's (H * W, 2) pixel centers and the (H * W, N + 3) spline's terms there.

    Kept, for the terms are the same at each step and were a twelfth of it.
    """
    like = torch.zeros((), dtype=dtype, device=device)
    centers = pixel_centers(height, width, like)
    return centers, spline_basis(centers, pixel_centers(side, side, like))


def spline_basis(points: Tensor, controls: Tensor) -> Tensor:
    """Return the (..., P, N + 3) terms of a thin-plate spline at (..., P, 2) points."""
    squared = (points[..., :, None, :] - controls).square().sum(-1)
    terms = [squared * (squared + KERNEL_FLOOR).log(), torch.ones_like(points[..., :1]), points]
    return torch.cat(terms, dim=-1)


def spline_weights(controls: Tensor, displacements: Tensor) -> Tensor:
    """Return the weights of the thin-plate splines through given displacements.

    Args:
        controls: (N, 2), not all on one line.
        displacements: (B, N, 2) of the control points.

    Returns:
        (B, N + 3, 2), for the terms of ``spline_basis``.
    """
    N = len(controls)
    basis = spline_basis(controls.double(), controls.double())  # (N, N + 3)
    system = torch.zeros(N + 3, N + 3, dtype=basis.dtype)
    system[:N] = basis
    system[N:, :N] = basis[:, N:].T  # no bending far away
    wanted = F.pad(displacements.double(), (0, 0, 0, 3))
    return torch.linalg.solve(system, wanted).to(displacements.dtype)


def random_warp(images: Tensor, spec: WarpSpec) -> Warp:
    """Return one random warp for each of (B, C, H, W) images.

    Its numbers come from the CPU's generator, the same for every device.
    """
    B = len(images)
    controls = pixel_centers(spec.points, spec.points, torch.zeros(()))
    displacements = spec.bending * torch.randn(B, len(controls), 2)
    angle = math.radians(spec.rotation) * torch.randn(B)
    scale = (spec.scaling * torch.randn(B)).exp()
    shift = spec.translation * (2 * torch.rand(B, 2) - 1)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [torch.stack([cos, -sin, shift[:, 0]], -1), torch.stack([sin, cos, shift[:, 1]], -1)]
    parts = torch.stack(rows, dim=1), spline_weights(controls, displacements)
    affine, weights = (to_device(part, images.device) for part in parts)
    return Warp(affine, spec.points, weights)
