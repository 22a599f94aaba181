"""Scenes of MNIST digits: MNIST-easy, MNIST-hard, MNIST-3 and the sets of Table 5 (Sec. 5.1).

N images, L the most digits in an image, d side of a digit's frame, S side of the canvas.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from mist_bench.datasets import sources
from mist_bench.datasets.files import Split
from mist_bench.datasets.placement import jittered_grid, poisson_disk
from mist_bench.spec import Count, Natural, NonNegative, Positive, different

Counts = Annotated[tuple[Natural, ...], Field(min_length=1), AfterValidator(different)]
Composite = Literal["max", "clipped_sum"]
CLASSES = 10
VAL_FRACTION = 6  # one in six training digits is kept for validation: the last 10,000 of 60,000


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    canvas: Count = 80,
    counts: Counts = (9,),
    placement: Literal["poisson", "uneven", "grid"] = "poisson",
    margin: NonNegative = 10,
    digit_size: Literal[1, 2, 4, 7, 14, 28] = 28,
    box_size: Positive = 20,
    composite: Composite = "max",
    radius: NonNegative = 18,
    jitter: NonNegative = 3.333,
    sorted_digits: bool = False,
    train_counts: Counts | None = None,
) -> Split:
    """Return ``size`` scenes of digits that only this split contains.

    Args:
        split: ``train`` and ``val`` use disjoint parts of MNIST-train, ``test`` MNIST-test.
        size: N, number of images.
        rng: the only source of randomness.
        canvas: S, side of an image, px.
        counts: an image's number of digits is drawn uniformly from this list; in a grid, fewer
            digits than nine fill the first cells of the smallest grid that holds them.
        placement: ``poisson`` (MNIST-hard), ``uneven`` (Figure 8) or ``grid`` (MNIST-easy).
        margin: least distance of a digit's center from the image's edge, px; what leaves the
            image is cut off.
        digit_size: d, side of a digit's frame, px; MNIST's 28 or a divisor of it.
        box_size: side of the ground-truth box around a frame's center, px.
        composite: overlapping digits give the ``max`` of their pixels or their ``clipped_sum``.
        radius: least distance of two centers, px, > 0 for ``poisson`` and ``uneven``; no matter in
            a grid.
        jitter: standard deviation of the centers around the ``grid``, px; no matter elsewhere.
        sorted_digits: the digits are 0, 1, 2, ... in order instead of uniform and independent.
        train_counts: what to draw from in ``train``, if not from ``counts``; ``val`` and ``test``
            stay the same, image by image (Sec. C.2: Esl16 trains on 0 to 9 digits).

    Returns:
        The split: ``images`` (N, 1, S, S) uint8, ``counts`` (N,), ``labels`` (N, L) in 0..9,
        ``boxes`` (N, L, 4) cxcywh px.

    Raises:
        ValueError: for values that exclude each other, in one line.
    """
    if train_counts is not None and split == "train":
        counts = train_counts
    if sorted_digits and max(counts) > CLASSES:
        raise ValueError(f"sorted_digits: only {CLASSES} digits exist, got counts {[*counts]}")
    streams = rng.spawn(4)  # one per purpose: a change of one leaves the others as they are
    numbers = np.asarray(counts)[streams[0].integers(len(counts), size=size)]  # (N,)
    corners = _corners(
        streams[1], numbers, canvas, margin, digit_size, placement, radius, jitter
    )  # (N, L, 2)
    valid = np.arange(corners.shape[1]) < numbers[:, None]  # (N, L)
    labels = streams[2].integers(CLASSES, size=valid.shape)
    if sorted_digits:
        labels = np.broadcast_to(np.arange(corners.shape[1]), valid.shape)
    digits, digit_labels, source = split_digits(split)
    chosen = _choose_digits(streams[3], labels, digit_labels)  # (N, L)
    images = paste(shrink(digits, digit_size), chosen, corners, numbers, canvas, composite)
    boxes = np.full((*valid.shape, 4), box_size, dtype=np.float32)
    boxes[..., :2] = corners + (digit_size - 1) / 2  # a frame of d pixels from x0: its center
    arrays = {
        "images": images[:, None],
        "counts": numbers.astype(np.int64),
        "labels": np.where(valid, labels, -1).astype(np.int64),
        "boxes": np.where(valid[..., None], boxes, np.float32(0)),
    }
    return Split(arrays, source)


def split_digits(split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Return the digits (M, 28, 28), labels (M,) and source that only ``split`` may use."""
    images, labels, source = sources.mnist("test" if split == "test" else "train")
    first_val = len(images) - len(images) // VAL_FRACTION
    part = {"train": slice(first_val), "val": slice(first_val, None), "test": slice(None)}[split]
    return images[part], labels[part], source


def shrink(digits: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return (M, size, size): means over square blocks of (M, d, d), rounded half up."""
    M, d, _ = digits.shape
    if size == d:
        return digits
    block = d // size
    total = digits.reshape(M, size, block, size, block).sum((2, 4), dtype=np.int64)
    return ((2 * total + block**2) // (2 * block**2)).astype(np.uint8)


def paste(
    digits: NDArray[np.uint8],
    chosen: NDArray[np.int64],
    corners: NDArray[np.int64],
    counts: NDArray[np.int64],
    canvas: int,
    composite: Composite,
) -> NDArray[np.uint8]:
    """Return (N, S, S) images with digits at whole pixels; what leaves the canvas is cut off.

    Args:
        digits: (M, d, d).
        chosen: (N, L) indices into ``digits``.
        corners: (N, L, 2) xy of each frame's first pixel, px; may be negative.
        counts: (N,) digits to paste; the rest of L is not looked at.
        canvas: S, px.
        composite: ``max`` or ``clipped_sum`` where digits overlap.
    """
    pad = digits.shape[1]
    scene = np.empty((canvas + 2 * pad, canvas + 2 * pad), dtype=np.uint8)
    images = np.empty((len(counts), canvas, canvas), dtype=np.uint8)
    places = np.clip(corners, -pad, canvas) + pad  # a frame wholly outside lands in the padding
    for image, picks, starts, count in zip(images, chosen, places.tolist(), counts, strict=True):
        scene[:] = 0
        for pick, (x, y) in zip(picks[:count], starts, strict=False):
            window, digit = scene[y : y + pad, x : x + pad], digits[pick]
            if composite == "max":
                np.maximum(window, digit, out=window)
            else:
                window += np.minimum(digit, 255 - window)
        image[:] = scene[pad:-pad, pad:-pad]
    return images


def _corners(
    rng, numbers, canvas, margin, digit_size, placement, radius, jitter
) -> NDArray[np.int64]:
    """Return (N, L, 2) xy of the first pixel of each digit's frame, px; 0 beyond the count.

    The canvas spans [-0.5, S - 0.5] and a frame's center is x0 + (d - 1) / 2.
    """
    low, high = math.ceil(margin - digit_size / 2), math.floor(canvas - margin - digit_size / 2)
    if low > high:
        raise ValueError(f"margin {margin:g} px leaves no room in a canvas of {canvas} px")
    corners = np.zeros((len(numbers), numbers.max(initial=0), 2), dtype=np.int64)
    for count in np.unique(numbers):
        rows = numbers == count
        if placement == "grid":
            offset = (digit_size - 1) / 2
            centers = jittered_grid(
                rng, rows.sum(), count, jitter, low + offset, high + offset, size=canvas
            )
            points = np.floor(centers - offset + 0.5)
        else:
            uneven = placement == "uneven"
            points = poisson_disk(rng, rows.sum(), int(count), radius, low, high, uneven=uneven)
        corners[rows, :count] = points
    return corners


def _choose_digits(rng, labels, digit_labels) -> NDArray[np.int64]:
    """Return for each of ``labels`` the index of a random digit of that class, uniform in it."""
    amounts = np.bincount(digit_labels, minlength=CLASSES)
    if absent := [label for label in np.unique(labels) if not amounts[label]]:
        raise ValueError(f"MNIST source has no digit {absent[0]}")
    order = np.argsort(digit_labels, kind="stable")
    first = np.cumsum(amounts) - amounts
    within = np.floor(rng.random(labels.shape) * amounts[labels]).astype(np.int64)
    return order[first[labels] + within]
