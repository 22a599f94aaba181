"""What a training step of every method of an experiment costs, measured side by side."""

from __future__ import annotations

from pathlib import Path

from mist_bench.bench.compare import read_spec, step_case, write_results
from mist_bench.bench.records import Row, spread, timing_rows
from mist_bench.bench.timing import Case, alternate, memory_growth
from mist_bench.run.method import use_deterministic_torch

SECONDS = 120.0  # of rounds, after which no further one begins
MEASURES = 3  # of memory, in each method


def bench_methods(out: Path, *, preset: str, experiment: str, repeats: int) -> list[Row]:
    """Time a training step of each method and rival of a classification, in turn.

    The records of runs give times, too, but each of its own hour, and the memory of a whole
    process.

    Args:
        out: folder for methods.csv, methods.json and methods.png.
        preset: of the configuration.
        experiment: of the configuration; a classification.
        repeats: most rounds.

    Returns:
        The rows of methods.csv.

    Raises:
        ConfigError: in one line, for an unknown name.
    """
    config, _ = read_spec(preset, experiment, "mist")
    setup = config.experiments[experiment]
    specs = {m: read_spec(preset, experiment, m)[1] for m in (*setup.methods, *setup.rivals)}
    use_deterministic_torch(specs["mist"].training.threads)
    cases = {method: step_case(method, spec) for method, spec in specs.items()}
    timings = alternate(list(cases.values()), repeats=repeats, limit=SECONDS)
    rows: list[Row] = []
    for (method, case), timing in zip(cases.items(), timings, strict=True):
        rows += timing_rows(method, timing, case.images, steps=True)
        rows += memory_rows(method, case)
    facts = {"specs": {name: spec.model_dump(mode="json") for name, spec in specs.items()}}
    about = f"One training step on {experiment}, preset {preset}"
    write_results(out, "methods", rows, facts, [], about=about)
    return rows


def memory_rows(method: str, case: Case) -> list[Row]:
    """Return by how much a step raises the resident set; nothing where the system cannot say."""
    grown = [memory_growth(case.once) for _ in range(MEASURES)]
    found = [value for value in grown if value is not None]
    return [spread(method, "memory_growth", found, "MiB")] if found else []
