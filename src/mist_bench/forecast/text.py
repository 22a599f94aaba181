"""A forecast in words: a table for the terminal, and its totals."""

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mist_bench.bench.records import three_digits
from mist_bench.forecast.jobs import Forecast, core_seconds, wall_seconds

TIMES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (0.001, "ms"))
SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
WIDTH = 1000  # characters: in a narrow terminal, too, no name is cut
NAMES = ("experiment or dataset", "method")
NUMBERS = ("to do", "done", "units", "GFLOP", "one takes", "timed", "job takes", "stores")


def text(forecasts: Sequence[Forecast], cores: int) -> str:
    """Return the table of the forecasts of a target's jobs on ``cores``, and their totals."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in NAMES:
        table.add_column(head, no_wrap=True)
    for head in NUMBERS:
        table.add_column(head, justify="right", no_wrap=True)
    for one in forecasts:
        table.add_row(*cells(one))
    page = io.StringIO()
    Console(file=page, width=WIDTH).print(table)
    lines = [line.rstrip() for line in page.getvalue().splitlines()]
    return "\n".join([*lines, *totals(forecasts, cores)])


def cells(one: Forecast) -> list[str]:
    """Return the row of a job: how often, how many units and what one costs, what a job costs."""
    job, cost = one.job, one.cost
    found = [*job.names, str(job.todo), str(job.done), f"{job.units:,}"]
    if cost is None or cost.seconds is None or one.seconds is None:
        return [*found, "", "", "", "not timed" if cost else "", in_units(one.size, SIZES)]
    flops = three_digits(cost.flops / 1e9) if cost.flops else ""
    each, whole = in_units(cost.seconds, TIMES), in_units(one.seconds, TIMES)
    return [*found, flops, each, str(cost.timed), whole, in_units(one.size, SIZES)]


def totals(forecasts: Sequence[Forecast], cores: int) -> list[str]:
    """Return the totals of a forecast, and what is not in them."""
    runs = [one.job for one in forecasts if one.job.kind == "run"]
    todo, done = sum(job.todo for job in runs), sum(job.done for job in runs)
    disk = sum(one.size * one.job.todo for one in forecasts)
    gpu = any(one.cost and one.cost.gpu for one in forecasts)
    lines = [
        f"runs: {todo} to do, {done} done. Units are steps of a run, or images.",
        f"{'GPU' if gpu else 'core'}-time {in_units(core_seconds(forecasts), TIMES)}; "
        f"on {cores} core{'s' if cores > 1 else ''} "
        f"{in_units(wall_seconds(forecasts, cores), TIMES)}; disk {in_units(disk, SIZES)}. "
        "Tables and figures take seconds.",
    ]
    lines += [
        f"not timed: {one.job.names[0]}, {one.job.names[1]}: {one.cost.note}"
        for one in forecasts
        if one.cost and one.cost.seconds is None
    ]
    return lines


def in_units(value: float, units: Sequence[tuple[float, str]]) -> str:
    """Return a time or a size in the first of descending units that it reaches."""
    size, name = next((unit for unit in units if value >= unit[0]), units[-1])
    return f"{three_digits(value / size)} {name}"
