"""Which photographs PASCAL+COCO keeps, and the square cut from each (Sec. 5.2).

The paper gives three rules; that a crop is a square (so that images stack) and how it is placed
are choices. Boxes of photographs are xyxy in continuous pixels, boxes of crops cxcywh in pixels
whose centers are integers. n objects, s side of the stored image.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from mist_bench.boxes import xyxy_to_cxcywh
from mist_bench.datasets.photographs.annotations import Photograph, UnusableError

FORMATS = ("JPEG", "PNG")
Window = tuple[float, float, float]  # left, top and side of a square, px of the photograph
# why a photograph is left out, in the order of the paper's steps
REASONS = ("no object", "large object", "elongated object", "too many objects", "no square")


@dataclass(frozen=True)
class Crop:
    """A stored image: (3, s, s) uint8, its objects' (n, 4) cxcywh boxes, and where it was cut."""

    photo: Photograph
    window: Window
    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def reason_to_drop(
    photo: Photograph, *, max_instances: int, largest: float, longest: float, coverage: float
) -> str | None:
    """Return the first of ``REASONS`` that holds for ``photo``; ``None`` if it is kept.

    Args:
        photo: the photograph; its difficult objects and crowds are not among its objects.
        max_instances: K, the most objects of the twenty classes.
        largest: the most an object may cover of the photograph, a fraction.
        longest: the most an object's longer side may be, in its shorter sides.
        coverage: what the objects are to cover of the crop, a fraction.
    """
    boxes = _boxes(photo)
    sizes = boxes[:, 2:] - boxes[:, :2]
    checks = (
        not len(boxes),
        (sizes.prod(1) > largest * photo.width * photo.height).any(),
        (sizes.max(1) > longest * sizes.min(1)).any(),
        len(boxes) > max_instances,
        len(boxes) and np.ptp(boxes.reshape(-1, 2), axis=0).max() > crop_side(photo, coverage),
    )
    return next((reason for reason, holds in zip(REASONS, checks, strict=True) if holds), None)


def crop_side(photo: Photograph, coverage: float) -> float:
    """Return the side of the square of which the objects cover ``coverage``, in px.

    Areas of overlapping objects are summed. Where the photograph is too small for the square, its
    shorter side, and the objects cover more.
    """
    boxes = _boxes(photo)
    area = float((boxes[:, 2:] - boxes[:, :2]).prod(1).sum())
    return min(math.sqrt(area / coverage), photo.width, photo.height)


def draw_window(photo: Photograph, coverage: float, rng: Generator) -> Window:
    """Return a random square, uniform among those that hold all objects, from two draws.

    Of a photograph that ``reason_to_drop`` keeps; the objects are to cover ``coverage`` of it.
    """
    boxes, side = _boxes(photo), crop_side(photo, coverage)
    low = np.maximum(boxes[:, 2:].max(0) - side, 0)  # (2,) xy
    high = np.minimum(boxes[:, :2].min(0), np.array([photo.width, photo.height]) - side)
    left, top = low + (high - low) * rng.random(2)
    return float(left), float(top), side


def crop_boxes(photo: Photograph, window: Window, side: int) -> NDArray[np.float32]:
    """Return (n, 4) cxcywh boxes in px of the stored image: exactly where the objects went."""
    left, top, extent = window
    boxes = (_boxes(photo) - [left, top, left, top]) * (side / extent)
    # the stored image spans [-0.5, s - 0.5]; a float's last digit must not lead out of it
    return xyxy_to_cxcywh(boxes.clip(0, side) - 0.5).astype(np.float32)


def crop_image(image: Image.Image, window: Window, side: int) -> NDArray[np.uint8]:
    """Return (3, s, s): a window of an RGB image, wherever its edges lie, without aliasing."""
    left, top, extent = window
    box = (left, top, min(left + extent, image.width), min(top + extent, image.height))
    resized = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1)


def open_image(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Return a whole photograph as RGB, as stored: annotations do not know of Exif rotations.

    Args:
        path: a JPEG or PNG file.
        size: the width and height it must have, px; ``None`` for any.

    Raises:
        UnusableError: if it is missing, cannot be decoded, or has another size.
    """
    if not path.is_file():
        raise UnusableError("missing image", "there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if size in (None, image.size):  # else nothing is decoded
                    return image.convert("RGB")
                found = image.size
    except (
        *(OSError, ValueError, SyntaxError, EOFError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise UnusableError("broken image", f"{type(error).__name__}: {reason}") from None
    raise UnusableError(
        "image of another size", f"{found[0]} x {found[1]} px, annotated {size[0]} x {size[1]}"
    )


def _boxes(photo: Photograph) -> NDArray[np.float64]:
    """Return (n, 4) xyxy boxes, px."""
    return np.array([each.box for each in photo.instances], dtype=np.float64).reshape(-1, 4)
