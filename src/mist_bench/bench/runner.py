"""A benchmark from its name to its files: numbers, where they were taken, and a picture."""

import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mist_bench.bench.plots import draw
from mist_bench.bench.records import Point, Row
from mist_bench.config.schema import RunSpec
from mist_bench.run.machine import machine
from mist_bench.run.record import write_csv

MODULES = {"methods": "steps", "official": "steps"}  # of kinds that share one


def run(kind: str, out: Path, **options: Any) -> str:
    """Run one benchmark, write its files, and return what it found in words.

    Args:
        kind: of a function bench_{kind} in ``mist_bench.bench``.
        out: folder for {kind}.csv, {kind}_{name}.csv of further tables, {kind}.json and {kind}.png.
        options: of that function.

    Raises:
        ConfigError: in one line, for an unknown name.
        ValueError: for what cannot be measured.
    """
    module = importlib.import_module(f"mist_bench.bench.{MODULES.get(kind, kind)}")
    found = getattr(module, f"bench_{kind}")(**options)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / f"{kind}.csv", found.rows)
    for name, rows in found.more.items():
        write_rows(out / f"{kind}_{name}.csv", rows)
    if isinstance(found.specs, RunSpec):
        specs = {"spec": found.specs.model_dump(mode="json")}
    else:
        specs = {"specs": {k: one.model_dump(mode="json") for k, one in found.specs.items()}}
    threads, load = torch.get_num_threads(), os.getloadavg()
    record = {**specs, **found.facts, "threads": threads, "load_average": load, **machine()}
    (out / f"{kind}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    figure = draw(found, f"{found.about}. {describe(record)}")
    figure.savefig(out / f"{kind}.png", dpi=150)
    return rows_text(found.rows)


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclass ``rows`` to a CSV."""
    names = {"least": "min", "most": "max"}  # the CSV's, which Python keeps for its functions
    write_csv(path, [{names.get(k, k): v for k, v in asdict(row).items()} for row in rows])


def rows_text(rows: Iterable[Row | Point]) -> str:
    """Return rows as lines of text; of points, the exponents and what was skipped."""
    return "\n".join(
        str(row) for row in rows if not isinstance(row, Point) or row.size == 0 or row.value is None
    )


def describe(record: Mapping[str, Any]) -> str:
    """Return the machine in words, for a caption."""
    threads = f"{record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    gpu = f"{record['gpu']}, " if record.get("device") == "cuda" else ""
    return (
        f"{gpu}{record['cpu']}, {record['cores']} cores, {threads}, "
        f"load average {record['load_average'][0]:.1f}, torch {record['versions']['torch']}"
    )
