"""A table in the paper's rows and columns, before it becomes Markdown, LaTeX or HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from mist_bench.reporting.tables.layouts import Layout, Metric
from mist_bench.reporting.tables.verdicts import NO_ESTIMATE, SINGLE_RUN, Estimate

NO_VALUE = "no value in"  # how a verdict says that some of the runs lack the metric


@dataclass(frozen=True)
class Cell:
    """One number of ours beside the paper's.

    Attributes:
        table: table1, ....
        experiment: by name.
        method: by name.
        metric: which metric, and the paper's metric it is compared with.
        ours: mean and interval over seeds.
        paper: the paper's value, ``None`` where it has none.
        delta: ours minus the paper's, ``None`` where they may not be compared.
        verdict: words; starts with one of ``verdicts.VERDICTS`` or 'no claim'.
    """

    table: str
    experiment: str
    method: str
    metric: Metric
    ours: Estimate = NO_ESTIMATE
    paper: float | None = None
    delta: float | None = None
    verdict: str = ""

    def number(self, value: float | None) -> str:
        """Return a value as the paper prints it: 97.8% or .053; a dash for none."""
        if value is None:
            return "-"
        if self.metric.percent:
            return f"{100 * value:.1f}%"
        text = f"{value:.{self.metric.decimals}f}"
        return text[1:] if text.startswith("0.") else text

    @property
    def interval(self) -> str:
        """The confidence interval as printed, '' without one."""
        if self.ours.ci_low is None:
            return ""
        return f"[{self.number(self.ours.ci_low)}, {self.number(self.ours.ci_high)}]"

    @property
    def short_verdict(self) -> str:
        """The verdict without its reason and remarks."""
        return self.verdict.split(":")[0].split(";")[0].split(" (")[0]


@dataclass(frozen=True)
class Column:
    """A column: the group it stands under ('' without groups) and its heading."""

    group: str
    label: str


@dataclass(frozen=True)
class Grid:
    """A table ready to print.

    Attributes:
        name: table1, ..., tuning.
        caption: what it shows, preset, seeds, data.
        columns: headings.
        rows: (heading, one cell or text per column, ``None`` where there is nothing to show).
        notes: reasons of what is not run and other remarks, one sentence each.
        legend: how to read a cell.
        compared: whether any of its metrics is one of the paper's.
        cells: all of them, also those that share a place with another.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[tuple[str, list[Cell | str | None]]]
    notes: list[str] = field(default_factory=list)
    legend: str = ""
    compared: bool = False
    cells: Sequence[Cell] = ()


def arrange(
    layout: Layout, cells: Sequence[Cell], labels: Mapping[str, str]
) -> tuple[list[Column], list[tuple[str, list[Cell | None]]]]:
    """Return the columns and rows of a table from its cells; ``labels`` are those of methods."""
    names = {
        "experiment": layout.experiments,
        "method": dict(labels),
        "metric": {metric.label: metric.label for metric in layout.metrics},
        "class": {metric.row: metric.row for metric in layout.metrics},
    }
    if any(metric.of_data for metric in layout.metrics):
        names["method"][""] = ""  # the last group, for what is the same for all of them
    axes = [axis for axis in ("experiment", "method", "metric") if axis != layout.rows]
    group, inner = axes[-2:]
    # where methods share a place, a cell that has a value fills it
    ordered = sorted(cells, key=lambda cell: cell.ours.mean is not None)
    by_key = {(_key(c, layout.rows), _key(c, group), _key(c, inner)): c for c in ordered}
    # a method an experiment lacks makes no column in its group
    known = {(_key(c, group), _key(c, inner)) for c in cells}
    keys = [key for key in product(names[group], names[inner]) if key in known]
    grouped = len(names[group]) > 1 and len(names[inner]) > 1
    columns = [
        Column(names[group][g], names[inner][i])
        if grouped
        else Column("", names[group][g] if len(names[group]) > 1 else names[inner][i])
        for g, i in keys
    ]
    rows = [
        (label, [by_key.get((row, *key)) for key in keys])
        for row, label in names[layout.rows].items()
    ]
    return columns, rows


def reasons(cells: Sequence[Cell], layout: Layout, labels: Mapping[str, str]) -> list[str]:
    """Return what verdicts say beyond their short form, once per run and reason."""
    grouped: dict[str, list[str]] = {}
    for cell in cells:
        said = cell.verdict.replace(SINGLE_RUN, "")
        if said == cell.short_verdict or said.startswith("not specified:"):
            continue
        who = f"{labels[cell.method]} on {layout.experiments[cell.experiment]}"
        if NO_VALUE in said:  # of some metrics only
            who = " ".join(filter(None, [cell.metric.row, cell.metric.label, "of", who]))
        if who not in grouped.setdefault(said, []):
            grouped[said].append(who)
    return [f"{', '.join(who)}: {said}." for said, who in grouped.items()]


def _key(cell: Cell, axis: str) -> str:
    """Return where a cell is on an axis of its table."""
    if axis == "metric":
        return cell.metric.label
    if axis == "class":
        return cell.metric.row
    return "" if axis == "method" and cell.metric.of_data else getattr(cell, axis)
