"""Tables 1-5: our cells beside the paper's, as CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mist_bench.config.schema import Config
from mist_bench.config.targets import DETAILS, EXTENDED, table_methods
from mist_bench.reporting.aggregate import changes_of_preset, collect, read_json
from mist_bench.reporting.files import RESOURCES, Rule, read_paper, read_rule, write_text
from mist_bench.reporting.tables.claims import claim_line
from mist_bench.reporting.tables.formats import to_latex, to_markdown
from mist_bench.reporting.tables.grid import NO_VALUE, Cell, Grid, make_grid
from mist_bench.reporting.tables.layouts import LAYOUTS, Layout, Metric, counted
from mist_bench.reporting.tables.verdicts import NO_CLAIM, estimate, judge

REFERENCE = "mist"  # the method every other one is ordered against
COLUMNS = [
    "table",
    "experiment",
    "method",
    "metric",
    "mean",
    "ci_low",
    "ci_high",
    "n",
    "paper",
    "delta",
    "verdict",
]


@dataclass(frozen=True)
class Evidence:
    """Everything a table is made from.

    Attributes:
        config: names experiments, methods, seeds and the preset.
        runs: the long table of ``aggregate.collect``.
        paper: the paper's numbers, as ``files.read_paper``.
        rule: the rule for verdicts.
        sources: where each experiment's data are from, in words; no key without a manifest.
        changed: settings that are not the preset's, as ``key: preset's -> ours``.
    """

    config: Config
    runs: pd.DataFrame
    paper: pd.DataFrame
    rule: Rule
    sources: Mapping[str, str]
    changed: Sequence[str]


def write_table(
    name: str, config: Config, results: Path, out: Path, *, resources: Path = RESOURCES
) -> None:
    """Write {name}.csv, {name}.md and {name}.tex to the folder ``out``.

    Args:
        name: table1 ... table5.
        config: names experiments, methods, seeds and the preset.
        results: the preset's folder.
        out: folder of the tables.
        resources: folder of the paper's numbers and the rule.

    Raises:
        ValueError: for an unknown table.
    """
    evidence = gather(config, results, resources)
    cells = table_cells(name, evidence)
    grid = table_grid(name, evidence, cells)
    write_text(out / f"{name}.csv", to_frame(cells).to_csv(index=False, lineterminator="\n"))
    write_text(out / f"{name}.md", to_markdown(grid))
    write_text(out / f"{name}.tex", to_latex(grid))


def gather(config: Config, results: Path, resources: Path = RESOURCES) -> Evidence:
    """Return what tables are made from, read once for all of them."""
    sources = {}
    for experiment, setup in config.experiments.items():
        manifest = read_json(results / "datasets" / setup.dataset / "manifest.json")
        if manifest and manifest.get("source"):
            features = config.datasets[setup.dataset].features
            seen = f", seen as features of {features.backbone}" if features else ""
            sources[experiment] = f"{manifest['source']}{seen}"
    runs = collect(config, results)
    rule, changed = read_rule(resources), changes_of_preset(config)
    return Evidence(config, runs, read_paper(resources), rule, sources, changed)


def to_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return cells as the published CSV: fractions, six decimals, empty where undefined."""
    rows = [
        (
            *(cell.table, cell.experiment, cell.method, cell.metric.name),
            *(cell.ours.mean, cell.ours.ci_low, cell.ours.ci_high, cell.ours.n),
            *(cell.paper, cell.delta, cell.verdict),
        )
        for cell in cells
    ]
    numbers = ["mean", "ci_low", "ci_high", "paper", "delta"]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(numbers, float)).round(6)


def table_cells(name: str, evidence: Evidence) -> list[Cell]:
    """Return the cells of one table, by experiment, method and metric in the paper's order.

    Raises:
        ValueError: for an unknown table.
    """
    if name not in LAYOUTS:
        raise ValueError(f"no table {name!r}; known: {', '.join(LAYOUTS)}")
    layout = counted(LAYOUTS[name], evidence.config.counting)
    cells = [
        _value_cell(name, experiment, method, metric, evidence)
        for experiment in layout.experiments
        for method in _methods(name, experiment, evidence)
        for metric in layout.metrics
    ]
    return [
        cell if cell.verdict else replace(cell, **_compare(cell, cells, evidence)) for cell in cells
    ]


def _methods(name: str, experiment: str, evidence: Evidence) -> list[str]:
    """Return the paper's methods of an experiment, then those only the config has."""
    setup = evidence.config.experiments.get(experiment)
    if name in EXTENDED:
        return [*EXTENDED[name][1], *(setup.rivals if setup else [])]
    rows = evidence.paper[["table", "experiment", "method"]].itertuples(index=False, name=None)
    methods = setup.methods if setup else []
    return table_methods(rows, DETAILS.get(name, name), experiment, methods)


def _value_cell(
    name: str, experiment: str, method: str, metric: Metric, evidence: Evidence
) -> Cell:
    """Return a cell with its values, and with a verdict only if there are none."""
    runs, paper = evidence.runs, evidence.paper
    runs = runs[(runs["experiment"] == experiment) & (runs["method"] == method)]
    stored = runs.loc[(runs["status"] == "ok") & (runs["metric"] == metric.name), "value"]
    values = stored.dropna()
    known = paper.loc[
        (paper["experiment"] == experiment)
        & (paper["method"] == method)
        & (paper["metric"] == metric.paper),
        "value",
    ].dropna()
    cell = Cell(
        table=name,
        experiment=experiment,
        method=method,
        metric=metric,
        ours=estimate(list(values), evidence.rule.confidence, fraction=metric.percent),
        paper=float(known.iloc[0]) if len(known) else None,
    )
    if len(values):
        return cell
    if len(stored) and cell.paper is None:
        return replace(cell, verdict="not specified: a ratio without a denominator")
    setup = evidence.config.experiments.get(experiment)
    if cell.paper is None and (setup is None or method not in setup.methods + setup.rivals):
        return replace(cell, verdict="not specified: not in the paper")
    return replace(cell, verdict=f"not run: {_why_not(cell, runs, evidence.config)}")


def _why_not(cell: Cell, runs: pd.DataFrame, config: Config) -> str:
    """Return why a cell has no value."""
    if cell.method not in config.methods:
        return f"not built yet: method {cell.method}"
    if cell.experiment not in config.experiments:
        return f"not built yet: experiment {cell.experiment}"
    setup = config.experiments[cell.experiment]
    if cell.method not in setup.methods + setup.rivals:
        return f"the config does not run {cell.method} in {cell.experiment}"
    return missing_seeds(runs) or f"metrics.json has no {cell.metric.name}"


def missing_seeds(runs: pd.DataFrame) -> str:
    """Return the seeds without metrics and their reasons, '' if there is none."""
    missing = runs[runs["status"] != "ok"]
    return "; ".join(
        f"seed {seed}: {'' if status == 'not run' else f'{status}: '}{reason}"
        for seed, status, reason in zip(
            missing["seed"], missing["status"], missing["reason"], strict=True
        )
    )


def _compare(cell: Cell, cells: Sequence[Cell], evidence: Evidence) -> dict[str, object]:
    """Return the difference and the verdict of a cell that has a value."""
    rule, runs = evidence.rule, evidence.runs
    runs = runs[(runs["experiment"] == cell.experiment) & (runs["method"] == cell.method)]
    lost = missing_seeds(runs)
    suffix = f"; of {len(evidence.config.seeds)} seeds missing: {lost}" if lost else ""
    finished = runs.loc[runs["status"] == "ok", "seed"].nunique()
    if gone := finished - cell.ours.n:
        suffix = f"; n = {cell.ours.n}, {NO_VALUE} {gone} of {finished} runs{suffix}"
    reason = None if cell.paper is None else _barred(cell.experiment, evidence)
    if reason:
        return {"verdict": f"{NO_CLAIM}: {reason}{suffix}"}
    verdict = judge(
        cell.ours,
        cell.paper,
        _references(cell, cells),
        rule.tolerance.get(cell.metric.paper, 0.0),
        rule,
    )
    delta = None if cell.paper is None else cell.ours.mean - cell.paper
    return {"delta": delta, "verdict": verdict + suffix}


def _barred(experiment: str, evidence: Evidence) -> str | None:
    """Return why an experiment is not compared with the paper; ``None`` if it is."""
    rule, source = evidence.rule, evidence.sources.get(experiment)
    if evidence.config.preset in rule.no_claim_presets:
        return evidence.config.preset
    if source is None:
        return "the data have no manifest"
    mark = next((mark for mark in rule.no_claim_data if mark in source.lower()), None)
    return f"{mark} data" if mark == "stand-in" else mark and source


def _references(cell: Cell, cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """Return (ours, paper's) of what a cell is ordered against in its column."""
    column = [
        other
        for other in cells
        if (other.experiment, other.metric) == (cell.experiment, cell.metric)
        and other.method != cell.method
        and other.ours.mean is not None
        and other.paper is not None
    ]
    if cell.method != REFERENCE:
        column = [other for other in column if other.method == REFERENCE]
    return [(other.ours.mean, other.paper) for other in column]


def table_grid(name: str, evidence: Evidence, cells: Sequence[Cell]) -> Grid:
    """Return a table in the paper's layout, with its caption."""
    layout = counted(LAYOUTS[name], evidence.config.counting)
    labels = {key: entry.label for key, entry in evidence.config.methods.items()}
    grid = make_grid(layout, cells, labels, caption(name, layout, evidence), evidence.rule)
    reasons = {experiment: _barred(experiment, evidence) for experiment in layout.experiments}
    barred = {experiment: reason for experiment, reason in reasons.items() if reason}
    lines = [claim_line(claim, cells, barred) for claim in evidence.rule.claims.get(name, [])]
    return replace(grid, notes=lines + grid.notes)


def caption(name: str, layout: Layout, evidence: Evidence) -> str:
    """Return the caption: what the table shows, preset, seeds and where the data are from."""
    sources: dict[str, list[str]] = {}
    for experiment, label in layout.experiments.items():
        if experiment in evidence.config.experiments:
            source = evidence.sources.get(experiment, "no manifest, hence not known")
            sources.setdefault(source, []).append(label)
    data = "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())
    seeds = ", ".join(str(seed) for seed in evidence.config.seeds)
    number = name.removeprefix("table").partition("_")[0]
    which = "extended beyond" if name in EXTENDED or name in DETAILS else "of"
    more = len(evidence.changed) - 3
    changed = [*evidence.changed[:3], *([f"{more} more"] if more > 0 else [])]
    changes = f"Changed from the preset: {', '.join(changed)}. " if changed else ""
    return (
        f"Table {number} {which} the paper. {layout.title}. "
        f"Preset {evidence.config.preset}; seeds {seeds} "
        f"(n = {len(evidence.config.seeds)} unless noted). {changes}"
        f"Data: {data or 'not built yet'}."
    )
