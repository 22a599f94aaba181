"""Box formats and overlaps in numpy: the one place where boxes change their format.

Convention of the whole package: boxes are cxcywh float32 in pixels of the network input, and a
pixel's *center* has integer coordinates, so that the image spans [-0.5, W - 0.5] (the official
sampler's rule). N and M count boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cxcywh_to_xyxy(boxes: NDArray) -> Array:
    """Return corners of boxes (not in the paper: torchvision's formats).

    Args:
        boxes: (..., 4) cxcywh, pixels.

    Returns:
        (..., 4) xyxy float64, pixels.

    Raises:
        ValueError: if the last axis does not hold 4 numbers.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be (..., 4), got {boxes.shape}")
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([center - half, center + half], axis=-1)


def xyxy_to_cxcywh(boxes: NDArray) -> Array:
    """Return centers and sizes of boxes; the inverse of ``cxcywh_to_xyxy``.

    Args:
        boxes: (..., 4) xyxy, pixels.

    Returns:
        (..., 4) cxcywh float64, pixels.

    Raises:
        ValueError: if the last axis does not hold 4 numbers.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must be (..., 4), got {boxes.shape}")
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def to_cells(boxes: NDArray, stride: float, origin: float) -> NDArray[np.float32]:
    """Return (..., 4) cxcywh boxes in pixels as boxes in cells of ``stride`` px.

    Cell j is centered at pixel ``origin`` + j ``stride``.
    """
    centers, sides = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(centers - origin) / stride, sides / stride], -1).astype(np.float32)


def to_pixels(boxes: NDArray, stride: float, origin: float) -> NDArray[np.float32]:
    """Return (..., 4) boxes in cells as boxes in pixels: the inverse of ``to_cells``."""
    centers, sides = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centers * stride + origin, sides * stride], -1).astype(np.float32)


def whole_pixels(centers: Any, size: int) -> Any:
    """Return the nearest centers at which squares of ``size`` samples, 1 px apart, sit on pixels.

    Args:
        centers: (...) of either axis, px; an array or a tensor.
        size: samples per side, odd for whole centers and even for halves.
    """
    half = (size - 1) / 2
    return (centers - half).round() + half


def box_iou(boxes: NDArray, others: NDArray) -> Array:
    """Return the intersection over union of every pair of boxes (Sec. 5.2).

    Args:
        boxes: (N, 4) cxcywh, pixels, sizes >= 0.
        others: (M, 4) cxcywh, pixels, sizes >= 0.

    Returns:
        (N, M) float64 in [0, 1]; 0 where both boxes are empty.
    """
    first, second = cxcywh_to_xyxy(boxes)[:, None], cxcywh_to_xyxy(others)[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)  # (N, M)
    areas = [np.clip(b[..., 2:] - b[..., :2], 0, None).prod(-1) for b in (first, second)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
