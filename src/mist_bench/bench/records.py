"""What a benchmark finds: rows of numbers, and fits of how they grow."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mist_bench.config.schema import RunSpec

if TYPE_CHECKING:
    from mist_bench.bench.timing import Timing


@dataclass(frozen=True)
class Row:
    """One quantity of one stage: the median of ``n`` values, and the least and most of them."""

    stage: str
    quantity: str
    value: float
    unit: str = ""  # empty for a fraction or a ratio
    n: int = 1
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        extremes = f"n={self.n} [{self.least:.4g}, {self.most:.4g}]" if self.n > 1 else ""
        return f"{self.stage:18} {self.quantity:22} {self.value:10.4g} {self.unit:9} {extremes}"


@dataclass(frozen=True)
class Point:
    """One measurement at one size, or why there is none."""

    axis: str  # what grows: instances, canvas, images or locations
    size: int  # 0 for a fit over all sizes
    operation: str
    quantity: str  # wall_time, cpu_time, memory, or a fitted exponent of one
    value: float | None  # per image, except of exponents; None if skipped
    unit: str
    n: int  # calls, or points of a fit
    least: float | None = None
    most: float | None = None
    status: str = "ok"  # or "skipped" and the reason

    def __str__(self) -> str:
        found = self.status if self.value is None else f"{self.value:6.2f} n={self.n}"
        return f"{self.axis:10} {self.operation:12} {self.quantity:26} {found}"


@dataclass(frozen=True)
class Pair:
    """Two training steps made right after another: their ratios are of seconds per image."""

    pair: int  # from 1
    first: str  # the configuration above the fraction line
    second: str
    first_wall: float  # seconds on the clock
    second_wall: float
    ratio: float  # on the clock
    cpu_ratio: float  # of processor seconds


@dataclass(frozen=True)
class Look:
    """What one look at the val split saw, as fractions of its instances (corrected, Sec. 5.2)."""

    step: int  # after which it was taken
    seconds: float  # of the processor, of training alone
    both: float
    iou50: float
    classification: float


@dataclass(frozen=True)
class Result:
    """What a benchmark found: the rows of its CSV and of further ones, by name.

    ``specs`` are the runs that were measured, ``facts`` more for the record beside the rows, and
    ``about`` says in words what was measured, for the caption of the picture.
    """

    rows: Sequence[Row] | Sequence[Point]
    specs: RunSpec | Mapping[str, RunSpec]
    about: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Sequence[Pair] | Sequence[Look]] = field(default_factory=dict)


def spread(stage: str, quantity: str, values: Sequence[float], unit: str = "") -> Row:
    """Return the row of several values of one quantity."""
    middle = statistics.median(values)
    return Row(stage, quantity, middle, unit, len(values), min(values), max(values))


def timing_rows(stage: str, timing: Timing, images: int, *, steps: bool = False) -> list[Row]:
    """Return seconds on the clock and of the processor, and rates: of images unless 0, of steps."""
    times = {"wall_time": timing.wall, "cpu_time": timing.cpu}
    rows = [spread(stage, name, values, "s") for name, values in times.items()]
    if steps:
        rows.append(spread(stage, "step_rate", [1 / one for one in timing.wall], "steps/s"))
    if images:
        rows.append(spread(stage, "image_rate", [images / one for one in timing.wall], "images/s"))
    return rows


def exponents(points: Sequence[Point]) -> list[Point]:
    """Return the exponents of one operation's quantities where two points are positive.

    ``exponent`` is fitted to all sizes; ``last exponent`` to the two largest, where fixed costs
    count least. It is b of the least-squares line log(value) = a + b log(size).
    """
    fits = []
    for quantity in dict.fromkeys(point.quantity for point in points):
        own = [one for one in points if one.quantity == quantity and one.value]
        for name, used in (("exponent", own), ("last exponent", own[-2:])):
            if len(used) > 1:
                sizes, values = [one.size for one in used], [one.value for one in used]
                slope = float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
                fit = f"{name} of {quantity}"
                fits.append(Point(own[0].axis, 0, own[0].operation, fit, slope, "", len(used)))
    return fits


def three_digits(number: float) -> str:
    """Return a number with 3 digits, or all those before the point, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
