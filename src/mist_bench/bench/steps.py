"""Training steps of several configurations in turn, A B A B, so that all see the same load."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from mist_bench.bench.cases import HARD, OFFICIAL, OFFICIAL_PRESET, read_spec, step_case, variant
from mist_bench.bench.records import Pair, Result, Row, spread, timing_rows
from mist_bench.bench.timing import Case, Timing, alternate, count_flops, memory_growth
from mist_bench.run.method import use_deterministic_torch

SECONDS = 60.0  # of rounds, after which a comparison of two or three ends
LONG = 120.0  # the same of all methods
MEASURES = 3  # of memory, in each method


def bench_methods(*, preset: str, experiment: str, repeats: int) -> Result:
    """Time a training step of each method and rival of an experiment, in turn.

    The records of runs give times, too, but each of its own hour, and the memory of a whole
    process.
    """
    config, mist = read_spec(preset, experiment, "mist")
    setup = config.experiments[experiment]
    specs = {m: read_spec(preset, experiment, m)[1] for m in (*setup.methods, *setup.rivals)}
    use_deterministic_torch(mist.training.threads)
    cases = {method: step_case(method, spec) for method, spec in specs.items()}
    timings = alternate(list(cases.values()), repeats=repeats, limit=LONG)
    rows: list[Row] = []
    for (method, case), timing in zip(cases.items(), timings, strict=True):
        rows += timing_rows(method, timing, case.images, steps=True)
        grown = [memory_growth(case.once) for _ in range(MEASURES)]
        if found := [value for value in grown if value is not None]:
            rows.append(spread(method, "memory_growth", found, "MiB"))
    return Result(rows, specs, f"One training step on {experiment}, preset {preset}")


def bench_official(*, repeats: int) -> Result:
    """Time the official code's step, this suite's with the same networks, and the preset cpu's."""
    _, cpu = read_spec("cpu", HARD, "mist")
    use_deterministic_torch(cpu.training.threads)
    specs = {name: variant(name, cpu) for name in (OFFICIAL, OFFICIAL_PRESET)} | {"cpu": cpu}
    cases = {name: step_case(name, spec) for name, spec in specs.items()}
    timings, pairs = compare(cases, repeats=repeats)
    rows = pair_rows(pairs)
    for name, case in cases.items():
        rows += timing_rows(name, timings[name], case.images, steps=True)
        rows.append(Row(name, "operations", count_flops(case) / 1e9, "GFLOP"))
    return Result(rows, specs, "One training step", more={"pairs": pairs})


def compare(cases: Mapping[str, Case], *, repeats: int) -> tuple[dict[str, Timing], list[Pair]]:
    """Return the timing of each case, and every case against every later one, pair by pair."""
    found = alternate(list(cases.values()), repeats=repeats, limit=SECONDS)
    timings = dict(zip(cases, found, strict=True))
    pairs = []
    for first, second in combinations(cases, 2):
        a, b = timings[first], timings[second]
        scale = cases[second].images / cases[first].images
        rounds = zip(a.wall, b.wall, a.cpu, b.cpu, strict=True)
        pairs += [
            Pair(i, first, second, one, other, one / other * scale, cpu / other_cpu * scale)
            for i, (one, other, cpu, other_cpu) in enumerate(rounds, 1)
        ]
    return timings, pairs


def pair_rows(pairs: Sequence[Pair]) -> list[Row]:
    """Return the median, least and greatest ratio of each comparison."""
    rows = []
    for first, second in dict.fromkeys((one.first, one.second) for one in pairs):
        own = [one for one in pairs if (one.first, one.second) == (first, second)]
        name = f"{first}/{second}"
        rows.append(spread(name, "wall_ratio", [one.ratio for one in own]))
        rows.append(spread(name, "cpu_ratio", [one.cpu_ratio for one in own]))
    return rows
