"""Two configurations against each other: their training steps in turn, A B A B, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mist_bench.bench import plots
from mist_bench.bench.cases import Setup
from mist_bench.bench.records import Row, describe, spread, timing_rows, write_record, write_rows
from mist_bench.bench.timing import Case, Timing, alternate, count_flops, ratios
from mist_bench.config import files, targets
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import keywords
from mist_bench.config.schema import Config, RunSpec
from mist_bench.run.method import use_deterministic_torch

SECONDS = 60.0  # of rounds, after which a comparison ends
# the named variant: the networks of the preset, the step of the official code
OFFICIAL, OFFICIAL_PRESET = "official", "paper"


@dataclass(frozen=True)
class Pair:
    """Two training steps made right after another.

    Attributes:
        pair: its number, from 1.
        first: the configuration above the fraction line.
        second: the one below.
        first_wall: seconds of its step on the clock.
        second_wall: seconds of its step on the clock.
        ratio: of the seconds per image.
        cpu_ratio: the same of processor seconds.
    """

    pair: int
    first: str
    second: str
    first_wall: float
    second_wall: float
    ratio: float
    cpu_ratio: float


def read_spec(preset: str, experiment: str, method: str) -> tuple[Config, RunSpec]:
    """Return a preset's configuration and its run of ``method`` with the first seed.

    Raises:
        ConfigError: in one line, for an unknown name.
    """
    config = settings.load(targets.SETTINGS, {"preset": preset})
    targets.check_run(config, experiment, method)
    return config, settings.run_spec(config, experiment, method, config.seeds[0])


def variant(name: str, spec: RunSpec) -> RunSpec:
    """Return what ``name`` stands for: a preset, ``official``, or ``keyword=value`` of the method.

    Raises:
        ConfigError: in one line, for an unknown preset or keyword.
    """
    keyword, equals, value = name.partition("=")
    if equals:
        known = keywords(spec.module, "build")
        settings.check_names(f"--against: keyword of {spec.module}", [keyword], known)
        return spec.model_copy(update={"params": spec.params | {keyword: files.typed(value)}})
    presets = sorted(path.stem for path in (targets.SETTINGS / "presets").glob("*.yaml"))
    settings.check_names("--against: preset", [name], [*presets, OFFICIAL])
    if name != OFFICIAL:
        return read_spec(name, spec.experiment, spec.method)[1]
    paper = read_spec(OFFICIAL_PRESET, spec.experiment, "mist")[1]
    # the official code sees a gray image as three equal channels
    image_size = (3, *paper.task.image_size[1:])
    return paper.model_copy(update={"task": replace(paper.task, image_size=image_size)})


def step_case(name: str, spec: RunSpec) -> Case:
    """Return the training step of ``spec``, in the official code's way if that is its name."""
    setup = Setup(spec, spec.training.batch_size)
    return setup.official_step() if name == OFFICIAL else setup.train_step()


def compare(
    cases: dict[str, Case], *, repeats: int, limit: float = SECONDS
) -> tuple[dict[str, Timing], list[Pair]]:
    """Return the timing of each case, and every case against every later one, pair by pair.

    Args:
        cases: by name; their calls are made in turn, round after round.
        repeats: most rounds.
        limit: wall seconds after which no further round begins, once there are three.
    """
    found = alternate(list(cases.values()), repeats=repeats, limit=limit)
    timings = dict(zip(cases, found, strict=True))
    pairs = []
    for first, second in combinations(cases, 2):
        a, b = timings[first], timings[second]
        scale = cases[second].images / cases[first].images
        both = zip(a.wall, b.wall, ratios(a.wall, b.wall), ratios(a.cpu, b.cpu), strict=True)
        pairs += [
            Pair(i, first, second, one, other, wall * scale, cpu * scale)
            for i, (one, other, wall, cpu) in enumerate(both, 1)
        ]
    return timings, pairs


def pair_rows(pairs: list[Pair]) -> list[Row]:
    """Return the median, least and greatest ratio of each comparison."""
    rows = []
    for first, second in dict.fromkeys((one.first, one.second) for one in pairs):
        own = [one for one in pairs if (one.first, one.second) == (first, second)]
        name = f"{first}/{second}"
        rows.append(spread(name, "wall_ratio", [one.ratio for one in own]))
        rows.append(spread(name, "cpu_ratio", [one.cpu_ratio for one in own]))
    return rows


def bench_official(out: Path, *, repeats: int) -> list[Row]:
    """Time the official code's step, this suite's with the same networks, and the preset cpu's.

    Args:
        out: folder for official.csv, official_pairs.csv, official.json and official.png.
        repeats: most rounds of the three.

    Returns:
        The rows of official.csv.
    """
    _, cpu = read_spec("cpu", "mnist_hard_classification", "mist")
    use_deterministic_torch(cpu.training.threads)
    specs = {name: variant(name, cpu) for name in (OFFICIAL, OFFICIAL_PRESET)} | {"cpu": cpu}
    cases = {name: step_case(name, spec) for name, spec in specs.items()}
    timings, pairs = compare(cases, repeats=repeats)
    rows = pair_rows(pairs)
    for name, case in cases.items():
        rows += timing_rows(name, timings[name], case.images, steps=True)
        rows.append(Row(name, "operations", count_flops(case) / 1e9, "GFLOP"))
    facts: dict[str, Any] = {"specs": {k: v.model_dump(mode="json") for k, v in specs.items()}}
    write_results(out, "official", rows, facts, pairs, about="One training step")
    return rows


def write_results(
    out: Path,
    name: str,
    rows: list[Row],
    facts: Mapping[str, Any],
    pairs: list[Pair],
    *,
    about: str,
) -> None:
    """Write {name}.csv, its record, its picture, and the pairs of a comparison if there are any.

    Args:
        out: folder of the files.
        name: how their names begin.
        rows: of the CSV.
        facts: for the record.
        pairs: of the comparison.
        about: what was measured, for the picture's caption.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / f"{name}.csv", rows)
    if pairs:
        write_rows(out / f"{name}_pairs.csv", pairs)
    record = write_record(out / f"{name}.json", facts)
    plots.save(plots.draw_stages(rows, f"{about}. {describe(record)}"), out / f"{name}.png")
