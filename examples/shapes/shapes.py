"""Bright shapes on a dark, noisy canvas: a dataset in one file.

N images, K shapes in each, S side of the canvas, s side of a shape.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mist_bench.datasets.files import Split
from mist_bench.spec import Count, NonNegative

DARK, BRIGHT = 20, 220  # gray levels, of 255


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    canvas: Count = 80,
    num_shapes: Count = 3,
    side: Count = 20,
    noise: NonNegative = 10,
) -> Split:
    """Return ``size`` images of disks, squares and triangles that do not overlap.

    Args:
        split: ``train``, ``val`` or ``test``, which differ by ``rng`` only.
        size: N, number of images.
        rng: the only source of randomness.
        canvas: S, side of an image, px.
        num_shapes: K, shapes in an image.
        side: s, side of a shape, px.
        noise: standard deviation of the noise, gray levels of 255.

    Returns:
        The split: ``images`` (N, 1, S, S) uint8, ``counts`` (N,), all K, ``labels`` (N, K) in 0..2,
        ``boxes`` (N, K, 4) cxcywh px.

    Raises:
        ValueError: if the shapes do not fit the canvas.
    """
    rows = math.isqrt(num_shapes - 1) + 1  # of the smallest square grid with K cells
    cell = canvas // rows
    if cell < side:
        raise ValueError(f"{num_shapes} shapes of {side} px do not fit a canvas of {canvas} px")
    labels = rng.integers(3, size=(size, num_shapes))
    cells = rng.random((size, rows**2)).argsort(axis=1)[:, :num_shapes]  # (N, K), all different
    corners = np.stack([cells % rows, cells // rows], axis=-1) * cell
    corners += rng.integers(cell - side + 1, size=corners.shape)  # (N, K, 2) xy
    images = np.full((size, 1, canvas, canvas), DARK, dtype=np.float32)
    shapes = draw_shapes(side)
    for image, places, names in zip(images, corners, labels, strict=True):
        for (x, y), name in zip(places, names, strict=True):
            image[0, y : y + side, x : x + side][shapes[name]] = BRIGHT
    images += noise * rng.standard_normal(images.shape, dtype=np.float32)
    boxes = np.full((size, num_shapes, 4), side, dtype=np.float32)
    boxes[..., :2] = corners + (side - 1) / 2  # the centers of pixels are whole numbers
    arrays = {
        "images": images.round().clip(0, 255).astype(np.uint8),
        "counts": np.full(size, num_shapes),
        "labels": labels,
        "boxes": boxes,
    }
    return Split(arrays, "shapes drawn by examples/shapes")


def draw_shapes(side: int) -> NDArray[np.bool_]:
    """Return (3, s, s): which pixels belong to a disk, a square and a triangle."""
    y, x = (np.mgrid[:side, :side] + 0.5) * 2 / side - 1  # in [-1, 1]
    return np.stack([x**2 + y**2 <= 1, np.full_like(x, True), 2 * abs(x) <= y + 1]).astype(bool)
