"""Every table as CSV, Markdown and LaTeX: our cells, beside the paper's where it has them."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
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
from mist_bench.reporting.files import Rule, read_paper, read_rule, write_text
from mist_bench.reporting.tables.claims import claim_line
from mist_bench.reporting.tables.formats import to_latex, to_markdown
from mist_bench.reporting.tables.grid import NO_VALUE, Cell, Grid, arrange, reasons
from mist_bench.reporting.tables.layouts import Layout, layout_of
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

    def of(self, cell: Cell) -> pd.DataFrame:
        """Return the rows of ``runs`` of a cell's experiment and method."""
        runs = self.runs
        return runs[(runs["experiment"] == cell.experiment) & (runs["method"] == cell.method)]

    def barred(self, experiment: str) -> str | None:
        """Return why an experiment is not compared with the paper; ``None`` if it is."""
        rule, source = self.rule, self.sources.get(experiment)
        if self.config.preset in rule.no_claim_presets:
            return self.config.preset
        if source is None:
            return "the data have no manifest"
        mark = next((mark for mark in rule.no_claim_data if mark in source.lower()), None)
        return f"{mark} data" if mark == "stand-in" else mark and source


def write_table(name: str, config: Config, results: Path, out: Path) -> None:
    """Write one of ``targets.tables`` as {name}.csv, {name}.md and {name}.tex to ``out``.

    Args:
        name: of the table.
        config: names experiments, methods, seeds and the preset.
        results: the preset's folder.
        out: folder of the tables.

    Raises:
        ConfigError: for an unknown table, or a search whose candidates the preset lacks.
    """
    check_names("table", [name], tables(config))
    if name in SEARCHES:
        frame, style = search_table(name, config, results), FORMATS[name]
        grid = search_grid(name, config, frame)
    else:
        grid, style = make_table(name, gather(config, results)), None
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
        _with_values(Cell(name, experiment, method, metric), evidence)
        for experiment in layout.experiments
        for method in _methods(name, experiment, evidence)
        for metric in layout.metrics
    ]
    cells = [
        one if one.verdict else replace(one, **_compare(one, cells, evidence)) for one in cells
    ]
    known = {name: entry.label for name, entry in config.methods.items()}
    labels = {cell.method: known.get(cell.method, cell.method) for cell in cells}
    columns, rows = arrange(layout, cells, labels)
    barred = {one: why for one in layout.experiments if (why := evidence.barred(one))}
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
    methods, rivals, omitted = (setup.methods, setup.rivals, setup.omitted) if setup else ([],) * 3
    if table_experiment(config, name):
        return [*methods, *rivals, *omitted]
    if name in EXTENDED:
        return list(dict.fromkeys([*EXTENDED[name][1], *rivals, *omitted]))
    # an omitted method whose own entry names the experiment would be shown; a rival would not
    methods = methods + [m for m in omitted if experiment in config.methods[m].experiments]
    rows = evidence.paper[["table", "experiment", "method"]].itertuples(index=False, name=None)
    return table_methods(rows, DETAILS.get(name, name), experiment, methods)


def _with_values(cell: Cell, evidence: Evidence) -> Cell:
    """Return a cell with its values, and with a verdict only if there are none."""
    runs, paper, name = evidence.of(cell), evidence.paper, cell.metric.name
    stored = runs.loc[(runs["status"] == "ok") & (runs["metric"] == name), "value"]
    values = stored.dropna()
    key = [cell.experiment, cell.method, cell.metric.paper]
    same = (paper[["experiment", "method", "metric"]] == key).all(axis=1)
    known = paper.loc[same, "value"].dropna()
    ours = estimate(list(values), evidence.rule.confidence, fraction=cell.metric.percent)
    cell = replace(cell, ours=ours, paper=float(known.iloc[0]) if len(known) else None)
    if len(values):
        return cell
    if len(stored) and cell.paper is None:
        return replace(cell, verdict="not specified: a ratio without a denominator")
    setup = evidence.config.experiments.get(cell.experiment)
    omitted, run = (setup.omitted, setup.methods + setup.rivals) if setup else ({}, [])
    if cell.method in omitted:
        reason = omitted[cell.method]
    elif cell.method in run:
        reason = missing_seeds(runs) or f"metrics.json has no {name}"
    elif cell.paper is None:
        return replace(cell, verdict="not specified: not in the paper")
    else:
        reason = f"the config does not run {cell.method} in {cell.experiment}"
    return replace(cell, verdict=f"not run: {reason}")


def missing_seeds(runs: pd.DataFrame) -> str:
    """Return the seeds without metrics and their reasons, '' if there is none."""
    return "; ".join(
        f"seed {run.seed}: {'' if run.status == 'not run' else f'{run.status}: '}{run.reason}"
        for run in runs[runs["status"] != "ok"].itertuples()
    )


def _compare(cell: Cell, cells: Sequence[Cell], evidence: Evidence) -> dict[str, object]:
    """Return the difference and the verdict of a cell that has a value."""
    rule, runs = evidence.rule, evidence.of(cell)
    lost = missing_seeds(runs)
    suffix = f"; of {len(evidence.config.seeds)} seeds missing: {lost}" if lost else ""
    finished = runs.loc[runs["status"] == "ok", "seed"].nunique()
    if gone := finished - cell.ours.n:
        suffix = f"; n = {cell.ours.n}, {NO_VALUE} {gone} of {finished} runs{suffix}"
    delta = None if cell.paper is None else cell.ours.mean - cell.paper
    if delta is not None and (reason := evidence.barred(cell.experiment)):
        return {"verdict": f"{NO_CLAIM}: {reason}{suffix}"}
    tolerance = rule.tolerance.get(cell.metric.paper, 0.0)
    verdict = judge(cell.ours, cell.paper, _references(cell, cells), tolerance, rule)
    return {"delta": delta, "verdict": verdict + suffix}


def _references(cell: Cell, cells: Sequence[Cell]) -> list[tuple[float, float]]:
    """Return (ours, paper's) of what a cell is ordered against in its column."""
    return [
        (other.ours.mean, other.paper)
        for other in cells
        if (other.experiment, other.metric) == (cell.experiment, cell.metric)
        and other.method != cell.method
        and REFERENCE in (cell.method, other.method)
        and None not in (other.ours.mean, other.paper)
    ]


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


def gather(config: Config, results: Path) -> Evidence:
    """Return what tables are made from, read once for all of them."""
    named = {name: source_of(config, results, name) for name in config.experiments}
    sources = {name: source for name, source in named.items() if source}
    return Evidence(config, collect(config, results), read_paper(), read_rule(), sources)


def to_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return cells as the published CSV: fractions, six decimals, empty where undefined."""
    rows = [
        [
            *(cell.table, cell.experiment, cell.method, cell.metric.name),
            *astuple(cell.ours),
            *(cell.paper, cell.delta, cell.verdict),
        ]
        for cell in cells
    ]
    numbers = ["mean", "ci_low", "ci_high", "paper", "delta"]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(numbers, float)).round(6)
