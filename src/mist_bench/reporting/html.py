"""One self-contained HTML page: tables, figures, deviations and where every run comes from."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mist_bench.reporting.aggregate import read_json, run_folder
from mist_bench.reporting.files import RESOURCES, read_deviations, write_text
from mist_bench.reporting.grid import Column
from mist_bench.reporting.page import PAGE
from mist_bench.reporting.tables import Evidence, gather, table_cells, table_grid
from mist_bench.reporting.verdicts import NO_CLAIM, VERDICTS
from mist_bench.schema import Config
from mist_bench.targets import EXTENDED, TABLES

# keys of run.json, in the order they are shown
RUN_KEYS = ("steps", "seconds", "threads", "cpu", "gpu", "peak_memory_mib", "commit")


def write_report(config: Config, results: Path, out: Path, *, resources: Path = RESOURCES) -> None:
    """Write index.html to the folder ``out``; figures and extended tables are those made so far.

    Args:
        config: names experiments, methods, seeds and the preset.
        results: the preset's folder, with runs/, datasets/ and figures/.
        out: folder of the report.
        resources: folder of the paper's numbers, the rule and the deviations.
    """
    evidence = gather(config, results, resources)
    made = [name for name in EXTENDED if (results / "tables" / f"{name}.csv").is_file()]
    cells = {name: table_cells(name, evidence) for name in [*TABLES, *made]}
    grids = [table_grid(name, evidence, one) for name, one in cells.items()]
    shown = [cells[grid.name] for grid in grids if grid.compared]
    count = Counter(cell.short_verdict for one in shown for cell in one)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["slug"] = lambda text: text.replace(" ", "-")
    environment.filters["groupby_order"] = column_groups
    page = environment.from_string(PAGE).render(
        preset=config.preset,
        seeds=", ".join(str(seed) for seed in config.seeds),
        counts=[(word, count[word]) for word in (*VERDICTS, NO_CLAIM) if count[word]],
        grids=grids,
        figures=embedded_figures(results / "figures"),
        deviations=read_deviations(resources).itertuples(index=False),
        run_columns=["experiment", "method", "seed", "status", *RUN_KEYS],
        runs=run_rows(evidence, results),
    )
    write_text(out / "index.html", page)


def column_groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the groups of the columns with their widths, in order."""
    return [(name, len(list(one))) for name, one in groupby(columns, lambda c: c.group)]


def embedded_figures(folder: Path) -> list[tuple[str, str]]:
    """Return (name, base64 of the PNG) of every figure in ``folder``, by name."""
    return [
        (path.stem, base64.b64encode(path.read_bytes()).decode("ascii"))
        for path in sorted(folder.glob("figure*.png"))
    ]


def run_rows(evidence: Evidence, results: Path) -> list[list[Any]]:
    """Return one row per run: its names, status with reason, and what run.json records."""
    rows = []
    runs = evidence.runs.drop_duplicates(["experiment", "method", "seed"])
    for run in runs.itertuples(index=False):
        record = read_json(run_folder(results, run.experiment, run.method, run.seed) / "run.json")
        status = f"{run.status}: {run.reason}" if run.reason else run.status
        known = [_plain((record or {}).get(key)) for key in RUN_KEYS]
        rows.append([run.experiment, run.method, run.seed, status, *known])
    return rows


def _plain(value: Any) -> str:
    """Return a value of run.json as a person would write it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
