"""Gabor noise: oriented Gabor kernels at the points of a Poisson process (Sec. 5.1, Figure 4).

The sparse convolution noise of Lagae et al. 2009, which the paper cites as [26]; the paper gives
none of its parameters. N images, L the most impulses in an image, S side of the canvas, n impulses
of all images.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from mist_bench.datasets.files import Split
from mist_bench.spec import Count, NonNegative, Positive

SOURCE = "Gabor noise, synthesized by this suite"


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    canvas: Count = 80,
    expected_count: Positive = 12,
    margin: NonNegative = 6,
    bandwidth: Positive = 0.08,
    frequency: NonNegative = 0.0833,
    orientations: Annotated[tuple[float, ...], Field(min_length=1)] = (0, 45, 90, 135),
    weights: Literal["positive", "signs"] = "positive",
    white: Positive = 3,
    box_size: Positive = 24,
) -> Split:
    """Return ``size`` images of Gabor noise with their impulses.

    Args:
        split: ``train``, ``val`` or ``test``, which differ by ``rng`` only.
        size: N, number of images.
        rng: the only source of randomness.
        canvas: S, side of an image, px.
        expected_count: mean of the Poisson-distributed number of impulses in an image.
        margin: least distance of an impulse from the image's edge, px; what leaves the image is
            cut off.
        bandwidth: a, width of the kernel's Gaussian, 1/px; at a distance of 1/a it is exp(-pi).
        frequency: F0, frequency of the kernel's wave, 1/px.
        orientations: directions of the wave, degrees from x to y; each impulse draws one.
        weights: impulses are all 1 (``positive``) or 1 and -1 at random (``signs``).
        white: noise that is shown white, in its standard deviations; its negative is black, and
            what exceeds them is clipped.
        box_size: side of the ground-truth box around an impulse, px.

    Returns:
        The split: ``images`` (N, 1, S, S) uint8, 0.5 + 0.5 noise / white; ``counts`` (N,);
        ``labels`` (N, L), 0 for every impulse, because there are no classes; ``boxes`` (N, L, 4)
        cxcywh px, centered at impulses that need not lie at whole pixels.

    Raises:
        ValueError: if the margin leaves no room.
    """
    if 2 * margin >= canvas:
        raise ValueError(f"margin must be below {canvas / 2:g} px, half the canvas, got {margin:g}")
    streams = rng.spawn(4)  # one per purpose: a change of one leaves the others as they are
    counts = streams[0].poisson(expected_count, size).astype(np.int64)  # (N,)
    total = int(counts.sum())
    # the canvas spans [-0.5, S - 0.5]
    centers = margin - 0.5 + (canvas - 2 * margin) * streams[1].random((total, 2))  # (n, 2)
    angles = np.asarray(orientations)[streams[2].integers(len(orientations), size=total)]
    signs = streams[3].integers(2, size=total) * 2 - 1
    heights = np.ones(total) if weights == "positive" else signs.astype(np.float64)
    noise = synthesize(
        centers, heights, angles, counts, canvas, bandwidth=bandwidth, frequency=frequency
    )
    density = expected_count / (canvas - 2 * margin) ** 2
    limit = white * standard_deviation(density, bandwidth, frequency)
    valid = np.arange(counts.max(initial=0)) < counts[:, None]  # (N, L)
    boxes = np.zeros((*valid.shape, 4), dtype=np.float32)
    boxes[valid, :2], boxes[valid, 2:] = centers, box_size
    arrays = {
        "images": to_bytes(noise, limit)[:, None],
        "counts": counts,
        "labels": np.where(valid, 0, -1).astype(np.int64),
        "boxes": boxes,
    }
    return Split(arrays, SOURCE)


def gabor_kernel(
    x: ArrayLike, y: ArrayLike, *, bandwidth: float, frequency: float, orientation: float
) -> NDArray[np.float64]:
    """Return exp(-pi a^2 (x^2 + y^2)) cos(2 pi F0 (x cos w + y sin w)), 1 at the origin.

    Args:
        x: offsets from the impulse, px; broadcast with ``y``.
        y: offsets from the impulse, px, downward.
        bandwidth: a, 1/px.
        frequency: F0, 1/px.
        orientation: w, degrees from x to y.
    """
    x, y, w = np.asarray(x, np.float64), np.asarray(y, np.float64), math.radians(orientation)
    wave = np.cos(2 * np.pi * frequency * (x * math.cos(w) + y * math.sin(w)))
    return np.exp(-np.pi * bandwidth**2 * (x**2 + y**2)) * wave


def standard_deviation(density: float, bandwidth: float, frequency: float) -> float:
    """Return that of the noise far from any edge: the root of density times the integral of g^2.

    Args:
        density: impulses per px^2, of weight 1 or -1.
        bandwidth: a, 1/px.
        frequency: F0, 1/px.
    """
    energy = (1 + math.exp(-2 * math.pi * (frequency / bandwidth) ** 2)) / (4 * bandwidth**2)
    return math.sqrt(density * energy)


def synthesize(
    centers: NDArray[np.float64],
    heights: NDArray[np.float64],
    angles: NDArray[np.float64],
    counts: NDArray[np.int64],
    canvas: int,
    *,
    bandwidth: float,
    frequency: float,
) -> NDArray[np.float32]:
    """Return (N, S, S) sums of kernels, without a cut-off.

    The cosine of a sum makes a kernel the difference of two products of a row and a column, so
    that an image is one product of matrices.

    Args:
        centers: (n, 2) xy of the impulses, px, image after image.
        heights: (n,) their weights.
        angles: (n,) their orientations, degrees.
        counts: (N,) impulses of each image; they sum to n.
        canvas: S, px.
        bandwidth: a, 1/px.
        frequency: F0, 1/px.
    """
    radians = np.radians(angles)
    directions = np.stack([np.cos(radians), np.sin(radians)], axis=1)  # (n, 2)
    noise = np.empty((len(counts), canvas, canvas), dtype=np.float32)
    for image, end, count in zip(noise, np.cumsum(counts), counts, strict=True):
        own = slice(end - count, end)  # m impulses
        offsets = np.arange(canvas) - centers[own, :, None]  # (m, 2, S)
        phases = 2 * np.pi * frequency * directions[own, :, None] * offsets
        bells = np.exp(-np.pi * bandwidth**2 * offsets**2)
        waves = np.stack([np.cos(phases), np.sin(phases)], axis=1) * bells[:, None]  # (m, 2, 2, S)
        columns, rows = waves[:, :, 0], waves[:, :, 1]  # (m, 2, S): functions of x, of y
        rows = rows * heights[own, None, None] * np.array([1.0, -1.0])[:, None]
        image[:] = rows.reshape(-1, canvas).T @ columns.reshape(-1, canvas)
    return noise


def to_bytes(noise: NDArray[np.float32], limit: float) -> NDArray[np.uint8]:
    """Return noise as pixels: 0 in the middle of the range, ``limit`` white, -``limit`` black."""
    unit = np.clip(0.5 + noise / (2 * limit), 0, 1)
    return np.floor(unit * 255 + 0.5).astype(np.uint8)
