"""Where the time of a run goes: every stage of one configuration, timed on its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mist_bench.bench.cases import Setup, stage_cases
from mist_bench.bench.compare import (
    Pair,
    compare,
    pair_rows,
    read_spec,
    step_case,
    variant,
    write_results,
)
from mist_bench.bench.records import Row, spread, timing_rows
from mist_bench.bench.timing import (
    Case,
    count_flops,
    highest_memory,
    measure,
    memory_growth,
    peak_flops,
)
from mist_bench.config import resolve as settings
from mist_bench.run.method import use_deterministic_torch

SCENES = 256  # enough for the metrics; how cost grows with them is the benchmark `scaling`
WARM_UP = 3  # training steps before any stage is timed
SECONDS = 5.0  # of repeats per stage


def bench_stages(
    out: Path,
    *,
    preset: str,
    experiment: str,
    method: str,
    repeats: int,
    only: Sequence[str] = (),
    against: str | None = None,
    images: int = SCENES,
) -> list[Row]:
    """Time every stage of one configuration.

    Args:
        out: folder for stages.csv, stages.json, stages.png and, of a comparison, stages_pairs.csv.
        preset: of the configuration.
        experiment: of the configuration; a classification.
        method: of the configuration; the parts of a step are those of MIST.
        repeats: most calls of a stage, and most rounds of a comparison.
        only: stages to time; all if empty.
        against: another configuration whose training step is compared, see ``compare.variant``.
        images: scenes to make.

    Returns:
        The rows of stages.csv.

    Raises:
        ConfigError: in one line, for an unknown name.
    """
    config, spec = read_spec(preset, experiment, method)
    other = variant(against, spec) if against else None
    use_deterministic_torch(spec.training.threads)
    setup = Setup(spec, images)
    for _ in range(WARM_UP):  # as in training, where the allocator keeps what a step has freed
        setup.train_step().once()
    peak = peak_flops()
    rows = [Row("core", f"{name}_rate", rate / 1e9, "GFLOP/s") for name, rate in peak.items()]
    with tempfile.TemporaryDirectory() as work:
        makers = stage_cases(setup, config, Path(work))
        settings.check_names(f"--only: stage of {method}", only, makers)
        for name in only or makers:
            case = makers[name]()
            rows += stage_rows(case, repeats=repeats, fastest=max(peak.values()))
    rows.append(Row("process", "peak_memory", highest_memory(), "MiB"))
    pairs: list[Pair] = []
    if other and against:
        cases = {
            against if against != preset else f"{preset} again": step_case(against, other),
            preset: setup.train_step(),
        }
        _, pairs = compare(cases, repeats=repeats)
        rows += pair_rows(pairs)
    facts = {"spec": spec.model_dump(mode="json"), "against": against, "scenes": images}
    about = f"{method} on {experiment}, preset {preset}, {setup.batch_size} images in a step"
    write_results(out, "stages", rows, facts, pairs, about=about)
    return rows


def stage_rows(case: Case, *, repeats: int, fastest: float, limit: float = SECONDS) -> list[Row]:
    """Return what one stage costs: time, rates, memory, and operations if it has any.

    Args:
        case: the stage.
        repeats: most calls.
        fastest: this core's operations per second, of which the stage's are a fraction.
        limit: wall seconds after which no further call begins, once there are three.
    """
    flops = count_flops(case)
    grown = memory_growth(case.once)
    timing = measure(case, repeats=repeats, limit=limit)
    rows = timing_rows(case.name, timing, case.images, steps=case.name == "train_step")
    if grown is not None:
        rows.append(Row(case.name, "memory_growth", grown, "MiB"))
    if flops:
        rates = [flops / one / 1e9 for one in timing.cpu]
        fractions = [rate * 1e9 / fastest for rate in rates]
        rows.append(Row(case.name, "operations", flops / 1e9, "GFLOP"))
        rows.append(spread(case.name, "operation_rate", rates, "GFLOP/s"))
        rows.append(spread(case.name, "fraction_of_core", fractions))
    return rows
