"""What a benchmark leaves: rows of numbers as CSV, and a record of where they were taken."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mist_bench.bench.timing import Timing, summary
from mist_bench.run.machine import machine

if TYPE_CHECKING:
    from mist_bench.bench.scaling import Point


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


HEADER = {"least": "min", "most": "max"}  # the CSV's names, which Python keeps for its functions


def spread(stage: str, quantity: str, values: Sequence[float], unit: str = "") -> Row:
    """Return the row of several values of one quantity."""
    value, least, most = summary(values)
    return Row(stage, quantity, value, unit, len(values), least, most)


def timing_rows(stage: str, timing: Timing, images: int, *, steps: bool = False) -> list[Row]:
    """Return the rows of a timing: seconds on the clock and of the processor, and rates.

    Args:
        stage: what was timed.
        timing: the seconds of its calls.
        images: images in one call; 0 for no image rate.
        steps: whether a call is a training step.
    """
    rows = [
        spread(stage, "wall_time", timing.wall, "s"),
        spread(stage, "cpu_time", timing.cpu, "s"),
    ]
    if steps:
        rows.append(spread(stage, "step_rate", [1 / one for one in timing.wall], "steps/s"))
    if images:
        rates = [images / one for one in timing.wall]
        rows.append(spread(stage, "image_rate", rates, "images/s"))
    return rows


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclass ``rows`` to a CSV, numbers with 6 significant digits, gaps empty."""
    columns = list(asdict(rows[0]))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([HEADER.get(name, name) for name in columns])
        table.writerows([_short(one) for one in asdict(row).values()] for row in rows)


def write_record(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write where and how the numbers were taken to a JSON file, and return it."""
    threads = torch.get_num_threads()
    record = {**facts, "threads": threads, "load_average": os.getloadavg(), **machine()}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def describe(record: Mapping[str, Any]) -> str:
    """Return the machine in words, for a caption."""
    versions = record["versions"]
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    gpu = f"{record['gpu']}, " if record.get("device") == "cuda" else ""
    return (
        f"{gpu}{record['cpu']}, {record['cores']} cores, {threads}, "
        f"load average {record['load_average'][0]:.1f}, torch {versions['torch']}"
    )


def rows_text(rows: Iterable[Row]) -> str:
    """Return rows as lines of text."""
    return "\n".join(
        f"{row.stage:18} {row.quantity:22} {row.value:10.4g} {row.unit:9} "
        + (f"n={row.n} [{row.least:.4g}, {row.most:.4g}]" if row.least is not None else "")
        for row in rows
    )


def points_text(points: Iterable[Point]) -> str:
    """Return the exponents and what was skipped as lines of text."""
    return "\n".join(
        f"{point.axis:10} {point.operation:12} {point.quantity:26} "
        + (f"{point.value:6.2f} n={point.n}" if point.value is not None else point.status)
        for point in points
        if point.size == 0 or point.value is None
    )


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value
