"""An annotated photograph of PASCAL VOC or COCO, and how one that cannot be used is told of.

Boxes here are xyxy in continuous pixels of the photograph: its first pixel covers [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

SLACK = 1.0  # px by which rounding may put an edge outside the image; such a box is clipped
LONGEST_NAME = 255  # bytes, what file systems take
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Instance:
    """One object: its label, a place in ``VOC_CLASSES``, and its box, xyxy px in the image."""

    label: int
    box: Box


@dataclass(frozen=True)
class Photograph:
    """One photograph and its objects of the twenty classes.

    Attributes:
        id: the same for all copies of a photograph: ``VOC2007/000005``, ``COCO/000000000110``.
        file: the image's path below the root of the data.
        width: px.
        height: px.
        instances: the objects, in the order of the annotation.
        skipped: how many more objects are marked difficult (VOC) or are crowds (COCO).
    """

    id: str
    file: str
    width: int
    height: int
    instances: tuple[Instance, ...]
    skipped: int = 0


@dataclass(frozen=True)
class Problem:
    """Something in the data that cannot be used.

    Attributes:
        photo: id of the photograph that is left out for it; empty if it concerns a whole file.
        file: where it is, a path below the root of the data.
        reason: its kind, to count by.
        detail: what it is, in words.
    """

    photo: str
    file: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """What the annotations of one data set say.

    Attributes:
        photographs: those that can be used.
        problems: what cannot.
        unlisted: photographs annotated for other tasks only, which are left out.
    """

    photographs: list[Photograph] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0


class UnusableError(ValueError):
    """A photograph or file that cannot be used, with the ``reason`` and ``detail`` to report."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    def of(self, photo: str, file: str) -> Problem:
        """Return it as a problem of a photograph, or of a whole file if ``photo`` is empty."""
        return Problem(photo, file, self.reason, self.detail)


def number(value: Any) -> float:
    """Return ``value`` as a float; NaN for what is no finite number."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def image_size(width: Any, height: Any) -> tuple[int, int]:
    """Return a photograph's size in px as written in its annotation.

    Raises:
        UnusableError: unless both are whole numbers > 0.
    """
    sizes = number(width), number(height)
    if not all(size > 0 and size == int(size) for size in sizes):
        raise UnusableError("broken annotation", f"the image's size is {width!r} x {height!r}")
    return int(sizes[0]), int(sizes[1])


def clip_box(box: Iterable[float], width: int, height: int) -> Box:
    """Return a box clipped to its image, which rounding may let it leave by ``SLACK``.

    Args:
        box: xyxy px; NaN for what is no number.
        width: of the image, px.
        height: of the image, px.

    Raises:
        UnusableError: if the box is not one, is farther outside, or has no area.
    """
    x0, y0, x1, y1 = box = tuple(box)
    shown = " ".join(f"{value:g}" for value in box)
    if any(map(math.isnan, box)):
        raise UnusableError("broken annotation", f"a box of four numbers is expected, got {shown}")
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise UnusableError("box outside the image", f"box {shown} of {width} x {height} px")
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if x1 <= x0 or y1 <= y0:
        raise UnusableError("empty box", f"box {shown} of {width} x {height} px")
    return x0, y0, x1, y1


def inside(name: Any) -> PurePosixPath:
    """Return a file's name in an annotation as a path that stays below its folder.

    Raises:
        UnusableError: if it is no name, or leads elsewhere.
    """
    if not isinstance(name, str) or not name.strip():
        raise UnusableError("broken annotation", "the image has no file name")
    name = name.strip()
    path = PurePosixPath(name)
    odd = any(mark in name for mark in "\\:")  # separators and drives of other systems
    if path.is_absolute() or ".." in path.parts or not path.parts or odd:
        raise UnusableError("path leaves its folder", f"file name {name!r}")
    if not name.isprintable() or len(name.encode()) > LONGEST_NAME:
        raise UnusableError("broken annotation", f"file name {name!r}")
    return path
