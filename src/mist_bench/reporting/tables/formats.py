"""A table as Markdown and as LaTeX."""

from collections.abc import Sequence
from itertools import groupby

from mist_bench.reporting.tables.grid import Cell, Column, Grid

MARKS = {
    "reproduced": "R",
    "direction only": "D",
    "not reproduced": "N",
    "not judged": "J",
    "not specified": "-",
    "no claim": "-",
}
_LATEX = str.maketrans(
    {special: f"\\{special}" for special in "{}%&#_$"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "\u2013": "--",
        "\u2026": r"\ldots{}",
        "\u00b1": r"$\pm$",
        "\u00d7": r"$\times$",
    }
)
_MARKDOWN = str.maketrans({special: f"\\{special}" for special in "\\|*_<"})


def row_texts(grid: Grid, cells: Sequence[Cell | str | None]) -> list[str]:
    """Return the cells of a row, each in one line."""
    return [cell_text(one, grid.compared) if isinstance(one, Cell) else one or "" for one in cells]


def cell_text(cell: Cell, compared: bool) -> str:
    """Return a cell in one line: ours [interval] / the paper's (mark), or ours alone."""
    ours = " ".join(filter(None, [cell.number(cell.ours.mean), cell.interval]))
    if cell.short_verdict == "not run":
        ours = "not run"
    if not compared:
        return ours
    mark = "" if cell.ours.mean is None else f" ({MARKS[cell.short_verdict]})"
    return f"{ours} / {cell.number(cell.paper)}{mark}"


def to_markdown(grid: Grid) -> str:
    """Return the table with its caption above and its notes below."""
    headings = [
        f"{column.group}: {column.label}" if column.group else column.label
        for column in grid.columns
    ]
    lines = [f"**{_markdown(grid.caption)}**", ""]
    lines += [grid.legend, ""] if grid.legend else []
    lines.append("| " + " | ".join(["", *map(_markdown, headings)]) + " |")
    lines.append("|---|" + "---:|" * len(headings))
    for label, cells in grid.rows:
        lines.append("| " + " | ".join(map(_markdown, [label, *row_texts(grid, cells)])) + " |")
    lines += ["", *(f"- {_markdown(note)}" for note in grid.notes), ""]
    return "\n".join(lines)


def to_latex(grid: Grid) -> str:
    """Return a table environment; it needs the package booktabs."""
    columns = len(grid.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small",
        rf"\begin{{tabular}}{{l{'r' * columns}}}",
        r"\toprule",
    ]
    if any(column.group for column in grid.columns):
        spans = [
            rf"\multicolumn{{{size}}}{{c}}{{{latex(name)}}}" for name, size in groups(grid.columns)
        ]
        lines.append(" & ".join(["", *spans]) + r" \\")
    lines.append(" & ".join(["", *(latex(column.label) for column in grid.columns)]) + r" \\")
    lines.append(r"\midrule")
    for label, cells in grid.rows:
        lines.append(" & ".join(map(latex, [label, *row_texts(grid, cells)])) + r" \\")
    text = " ".join(filter(None, [grid.caption, grid.legend, *grid.notes]))
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{latex(text)}}}",
        rf"\label{{tab:{grid.name}}}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the groups of the columns with their widths, in order."""
    return [(name, len(list(one))) for name, one in groupby(columns, lambda c: c.group)]


def latex(text: str) -> str:
    """Return ``text`` with LaTeX's special characters escaped."""
    return text.translate(_LATEX)


def _markdown(text: str) -> str:
    """Return ``text`` so that it cannot end a cell or start markup."""
    return text.translate(_MARKDOWN)
