"""Where the digits go: random positions in a square, for many images at once.

Random positions are whole pixels from the lowest, because digits are pasted at whole pixels: the
stated least distance then holds exactly in the images, and no rounding differs between machines.
n images, M darts, P slots for accepted darts.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.float64]

LAYOUTS = 1024  # thrown at a time; a constant, so that n images are the first n of any more
DARTS = 384  # per layout: 384 darts leave few gaps in a square that takes a dozen points
TRIES = 20  # rounds before a rare layout is called impossible
FAR = 1e9  # an empty slot: too far to conflict with any dart


def poisson_disk(
    rng: Generator,
    n: int,
    count: int,
    radius: float,
    low: float,
    high: float,
    *,
    uneven: bool = False,
) -> Array:
    """Return random points that keep their distance (Sec. 5.1, "a Poisson distribution [4]").

    Darts are thrown until the square is full, then ``count`` of the points are drawn: the
    distribution of ``scipy.stats.qmc.PoissonDisk``'s ``fill_space`` followed by a random choice.
    Layouts with fewer points are thrown away.

    Args:
        rng: the only source of randomness.
        n: number of images.
        count: points in an image.
        radius: least distance of two points of an image, px.
        low: least coordinate, px.
        high: greatest coordinate, px.
        uneven: keep the points nearest to a focus, which is uniform in the square, instead of
            random ones (Suppl. Sec. D, Figure 8; how is not specified in the paper). The smaller
            ``radius``, the more uneven.

    Returns:
        (n, count, 2) xy, px, at whole pixels from ``low``.

    Raises:
        ValueError: if so many points do not fit, or fit in fewer than 1 of 1,000 layouts.
    """
    where = f"{count} points {radius:g} px apart in [{low:g}, {high:g}]²"
    if radius <= 0:
        raise ValueError(f"{where}: radius must be > 0")
    if count > (bound := most_points(radius, high - low)):
        raise ValueError(f"{where} is impossible: at most {bound} fit; lower radius or margin")
    found, total, rounds = [np.empty((0, count, 2))], 0, 0
    while total < n:
        points, accepted = _throw(rng, min(bound, DARTS), radius, low, high)
        if uneven:
            focus = low + rng.random((len(points), 1, 2)) * (high - low)
            rank = ((points - focus) ** 2).sum(-1)
        else:
            rank = rng.random(points.shape[:2])
        rank = np.where(np.arange(points.shape[1]) < accepted[:, None], rank, np.inf)
        order = np.argsort(rank, axis=1, kind="stable")[:, :count]  # (LAYOUTS, count)
        picked = np.take_along_axis(points, order[..., None], axis=1)[accepted >= count]
        found.append(picked)
        total, rounds = total + len(picked), rounds + 1
        if rounds >= TRIES and total * 1000 < rounds * LAYOUTS:
            raise ValueError(
                f"{where}: {total} of {rounds * LAYOUTS} random layouts hold so many; "
                "lower radius or margin"
            )
    return np.concatenate(found)[:n]


def jittered_grid(
    rng: Generator, n: int, count: int, jitter: float, low: float, high: float, *, size: float
) -> Array:
    """Return the centers of a square grid's cells, row by row, with noise (Sec. 5.1, MNIST-easy).

    Args:
        rng: the only source of randomness.
        n: number of images.
        count: points in an image; they fill the first cells of the smallest square grid.
        jitter: standard deviation of the Gaussian noise on each coordinate, px.
        low: coordinates are clipped to this, px.
        high: coordinates are clipped to this, px.
        size: side of the square that the grid divides, px; it begins at -0.5.

    Returns:
        (n, count, 2) xy, px, not on a lattice.
    """
    side = math.isqrt(max(count - 1, 0)) + 1
    cell = size / side
    index = np.arange(count)
    centers = np.stack([index % side, index // side], axis=-1) * cell + cell / 2 - 0.5
    return np.clip(centers + jitter * rng.standard_normal((n, count, 2)), low, high)


def most_points(radius: float, side: float) -> int:
    """Return a bound on the points ``radius`` apart that a square holds (Oler's inequality).

    Args:
        radius: least distance of two points, px, > 0.
        side: side of the square, px.
    """
    return math.floor(2 / math.sqrt(3) * (side / radius) ** 2 + 2 * side / radius + 1 + 1e-9)


def _throw(rng, slots, radius, low, high) -> tuple[Array, NDArray[np.int64]]:
    """Return (LAYOUTS, slots, 2) accepted points in the order thrown and (LAYOUTS,) their number.

    A dart sticks if it is at least ``radius`` from those that stuck before it.
    """
    cells = math.floor(high - low + 1e-9) + 1
    darts = low + np.floor(rng.random((DARTS, 2, LAYOUTS)) * cells)
    xs, ys = np.full((2, slots, LAYOUTS), FAR)
    accepted = np.zeros(LAYOUTS, dtype=np.int64)
    limit, rows = radius * radius - 1e-9, np.arange(LAYOUTS)
    for x, y in darts:
        used = min(int(accepted.max()) + 1, slots)
        distance = (xs[:used] - x) ** 2 + (ys[:used] - y) ** 2  # (used, LAYOUTS)
        stuck = rows[(distance >= limit).all(axis=0) & (accepted < slots)]
        xs[accepted[stuck], stuck], ys[accepted[stuck], stuck] = x[stuck], y[stuck]
        accepted[stuck] += 1
    return np.stack([xs, ys], axis=-1).transpose(1, 0, 2), accepted
