"""Every table as CSV, Markdown and LaTeX: our cells, beside the paper's where it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mist_bench.config.keywords import check_names
from mist_bench.config.schema import Config
from mist_bench.config.targets import (
    DETAILS,
    EXTENDED,
    SEARCHES,
    table_experiment,
    table_methods,
    tables,
)
from mist_bench.reporting.aggregate import NO_SOURCE, changed_words, collect, source_of
from mist_bench.reporting.files import RESOURCES, Rule, read_paper, read_rule, write_text
from mist_bench.reporting.tables.claims import claim_line
from mist_bench.reporting.tables.formats import to_latex, to_markdown
from mist_bench.reporting.tables.grid import NO_VALUE, Cell, Grid, arrange, reasons
from mist_bench.reporting.tables.layouts import PAPER_METHODS, Layout, Metric, layout_of
from mist_bench.reporting.tables.searches import FORMATS, search_grid, search_table
from mist_bench.reporting.tables.verdicts import NO_CLAIM, estimate, judge, rule_in_words

REFERENCE = "mist"  # the method every other one is ordered against
COLUMNS = [
    *("table", "experiment", "method", "metric", "mean", "ci_low", "ci_high", "n"),
    *("paper", "delta", "verdict"),
]
LEGEND = (
    "Each cell: ours / the paper's (verdict). "
    "R reproduced, D direction only, N not reproduced, J not judged, - no verdict."
)
LEGEND_ALONE = "Each cell: ours alone; the paper has no such table."


@dataclass(frozen=True)
class Evidence:
    """Everything a table is made from.

    Attributes:
        config: names experiments, methods, seeds and the preset.
        runs: the long table of ``aggregate.collect``.
        paper: the paper's numbers, as ``files.read_paper``.
        rule: the rule for verdicts.
        sources: where each experiment's data are from, in words; no key without a manifest.
    """

    config: Config
    runs: pd.DataFrame
    paper: pd.DataFrame
    rule: Rule
    sources: Mapping[str, str]


def write_table(
    name: str, config: Config, results: Path, out: Path, *, resources: Path = RESOURCES
) -> None:
    """Write one of ``targets.tables`` as {name}.csv, {name}.md and {name}.tex to ``out``.

    Args:
        name: of the table.
        config: names experiments, methods, seeds and the preset.
        results: the preset's folder.
        out: folder of the tables.
        resources: folder of the paper's numbers and the rule.

    Raises:
        ConfigError: for an unknown table, or a search whose candidates the preset lacks.
    """
    check_names("table", [name], tables(config))
    if name in SEARCHES:
        frame, style = search_table(name, config, results, resources), FORMATS[name]
        grid = search_grid(name, config, frame)
    else:
        grid, style = make_table(name, gather(config, results, resources)), None
        frame = to_frame(grid.cells)
    csv = frame.to_csv(index=False, lineterminator="\n", float_format=style)
    for kind, text in (("csv", csv), ("md", to_markdown(grid)), ("tex", to_latex(grid))):
        write_text(out / f"{name}.{kind}", text)


def make_table(name: str, evidence: Evidence) -> Grid:
    """Return one table with its caption and notes.

    Its cells are ordered by experiment, method and metric, as the paper has them.
    """
    config, rule = evidence.config, evidence.rule
    layout = layout_of(name, config)
    cells = [
        _value_cell(name, experiment, method, metric, evidence)
        for experiment in layout.experiments
        for method in _methods(name, experiment, evidence)
        for metric in layout.metrics
    ]
    cells = [
        one if one.verdict else replace(one, **_compare(one, cells, evidence)) for one in cells
    ]
    known = PAPER_METHODS | {key: entry.label for key, entry in config.methods.items()}
    labels = {cell.method: known.get(cell.method, cell.method) for cell in cells}
    columns, rows = arrange(layout, cells, labels)
    barred = {one: why for one in layout.experiments if (why := _barred(one, evidence))}
    metrics = list(dict.fromkeys(metric.paper for metric in layout.metrics if metric.paper))
    notes = [
        *(claim_line(claim, cells, barred) for claim in rule.claims.get(name, [])),
        layout.remark,
        rule_in_words(rule, metrics) if metrics else "",
        "Intervals of percentages end at 0% and 100%."
        if any(cell.metric.percent and cell.interval for cell in cells)
        else "",
        *reasons(cells, layout, labels),
    ]
    return Grid(
        name,
        caption(name, layout, cells, evidence),
        columns,
        rows,
        notes=[note for note in notes if note],
        legend=LEGEND if metrics else LEGEND_ALONE,
        compared=bool(metrics),
        cells=cells,
    )


def _methods(name: str, experiment: str, evidence: Evidence) -> list[str]:
    """Return the paper's methods of an experiment, then those only the config has."""
    config = evidence.config
    setup = config.experiments.get(experiment)
    rivals = [*setup.rivals, *setup.omitted] if setup else []
    methods = setup.methods if setup else []
    if table_experiment(config, name):
        return [*methods, *rivals]
    if name in EXTENDED:
        return list(dict.fromkeys([*EXTENDED[name][1], *rivals]))
    # an omitted method whose own entry names the experiment would be shown; a rival would not
    omitted = setup.omitted if setup else {}
    methods = methods + [m for m in omitted if experiment in config.methods[m].experiments]
    rows = evidence.paper[["table", "experiment", "method"]].itertuples(index=False, name=None)
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
    known = [*setup.methods, *setup.rivals, *setup.omitted] if setup else []
    if cell.paper is None and method not in known:
        return replace(cell, verdict="not specified: not in the paper")
    return replace(cell, verdict=f"not run: {_why_not(cell, runs, evidence.config)}")


def _why_not(cell: Cell, runs: pd.DataFrame, config: Config) -> str:
    """Return why a cell has no value."""
    if cell.method not in config.methods:
        return f"not built yet: method {cell.method}"
    if cell.experiment not in config.experiments:
        return f"not built yet: experiment {cell.experiment}"
    setup = config.experiments[cell.experiment]
    if cell.method in setup.omitted:
        return setup.omitted[cell.method]
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


def caption(name: str, layout: Layout, cells: Sequence[Cell], evidence: Evidence) -> str:
    """Return the caption: what the table shows, preset, seeds and where the data are from."""
    config = evidence.config
    sources: dict[str, list[str]] = {}
    for experiment, label in layout.experiments.items():
        if experiment in config.experiments:
            source = evidence.sources.get(experiment, NO_SOURCE)
            sources.setdefault(source, []).append(label)
    data = "; ".join(f"{', '.join(names)}: {source}" for source, names in sources.items())
    changes = changed_words(config, ((cell.experiment, cell.method) for cell in cells))
    return (
        f"{heading(name, config)}. {layout.title}. Preset {config.preset}; "
        f"seeds {', '.join(map(str, config.seeds))} (n = {len(config.seeds)} unless noted). "
        f"{changes}Data: {data or 'not built yet'}."
    )


def heading(name: str, config: Config) -> str:
    """Return which table it is, in words."""
    if experiment := table_experiment(config, name):
        return f"Experiment {experiment}"
    number = name.removeprefix("table").partition("_")[0]
    which = "extended beyond" if name in EXTENDED or name in DETAILS else "of"
    return f"Table {number} {which} the paper"


def gather(config: Config, results: Path, resources: Path = RESOURCES) -> Evidence:
    """Return what tables are made from, read once for all of them."""
    named = {name: source_of(config, results, name) for name in config.experiments}
    sources = {name: source for name, source in named.items() if source}
    runs, rule = collect(config, results), read_rule(resources)
    return Evidence(config, runs, read_paper(resources), rule, sources)


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
