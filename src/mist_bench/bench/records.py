"""What a benchmark finds: rows of numbers, and fits of how they grow."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mist_bench.bench.timing import Timing, summary
from mist_bench.config.schema import RunSpec


@dataclass(frozen=True)
class Row:
    """One measured quantity.

    Attributes:
        stage: what was measured.
        quantity: which of its properties.
        value: the median of ``n`` values, of which ``least`` and ``most`` are the extremes.
        unit: of the three; empty for a fraction or a ratio.
        n: number of values.
    """

    stage: str
    quantity: str
    value: float
    unit: str = ""
    n: int = 1
    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        extremes = f"n={self.n} [{self.least:.4g}, {self.most:.4g}]" if self.n > 1 else ""
        return f"{self.stage:18} {self.quantity:22} {self.value:10.4g} {self.unit:9} {extremes}"


@dataclass(frozen=True)
class Point:
    """One measurement at one size, or why there is none.

    Attributes:
        axis: what grows: instances, canvas, images or locations.
        size: how large it is; 0 for a fit over all sizes.
        operation: what was measured.
        quantity: ``wall_time``, ``cpu_time``, ``memory``, or a fitted exponent of one.
        value: per image, except of exponents; ``None`` if skipped.
        unit: of the value.
        n: calls, or points of a fit.
        least: the least of the calls.
        most: the most of the calls.
        status: ``ok``, or ``skipped`` and the reason.
    """

    axis: str
    size: int
    operation: str
    quantity: str
    value: float | None
    unit: str
    n: int
    least: float | None = None
    most: float | None = None
    status: str = "ok"

    def __str__(self) -> str:
        found = self.status if self.value is None else f"{self.value:6.2f} n={self.n}"
        return f"{self.axis:10} {self.operation:12} {self.quantity:26} {found}"


@dataclass(frozen=True)
class Pair:
    """Two training steps made right after another.

    Attributes:
        pair: its number, from 1.
        first: the configuration above the fraction line.
        second: the one below.
        first_wall: seconds of its step on the clock.
        second_wall: seconds of its step on the clock.
        ratio: of the seconds per image.
        cpu_ratio: the same of processor seconds.
    """

    pair: int
    first: str
    second: str
    first_wall: float
    second_wall: float
    ratio: float
    cpu_ratio: float


@dataclass(frozen=True)
class Look:
    """One look at the val split.

    Attributes:
        step: after which it was taken.
        seconds: processor seconds of the training so far; data and looks are not in it.
        both: fraction of instances found and named (corrected, Sec. 5.2); of all looked at.
        iou50: fraction of instances found.
        classification: fraction of instances named, as counts per image.
    """

    step: int
    seconds: float
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
    value, least, most = summary(values)
    return Row(stage, quantity, value, unit, len(values), least, most)


def timing_rows(stage: str, timing: Timing, images: int, *, steps: bool = False) -> list[Row]:
    """Return seconds on the clock and of the processor, and rates: of images unless 0, of steps."""
    wall, rates = timing.wall, []
    if steps:
        rates.append(spread(stage, "step_rate", [1 / one for one in wall], "steps/s"))
    if images:
        rates.append(spread(stage, "image_rate", [images / one for one in wall], "images/s"))
    return [
        spread(stage, "wall_time", wall, "s"),
        spread(stage, "cpu_time", timing.cpu, "s"),
        *rates,
    ]


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


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclass ``rows`` to a CSV, numbers with 6 significant digits, gaps empty."""
    names = {"least": "min", "most": "max"}  # the CSV's, which Python keeps for its functions
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([names.get(name, name) for name in asdict(rows[0])])
        for row in rows:
            values = asdict(row).values()
            table.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in values])


def rows_text(rows: Iterable[Row | Point]) -> str:
    """Return rows as lines of text; of points, the exponents and what was skipped."""
    return "\n".join(
        str(row) for row in rows if not isinstance(row, Point) or row.size == 0 or row.value is None
    )
