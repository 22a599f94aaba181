"""Where the time of a run goes: every stage of one configuration, timed on its own."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from mist_bench.bench.cases import Setup, made_up_predictions, read_spec, step_case, variant
from mist_bench.bench.records import Pair, Result, Row, spread, timing_rows
from mist_bench.bench.steps import compare, pair_rows
from mist_bench.bench.timing import Case, alternate, count_flops, memory_growth, peak_flops
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.config.schema import Config
from mist_bench.evaluation.metrics import compute
from mist_bench.mist import Mist
from mist_bench.models.detector import Detector
from mist_bench.models.sampler import sample_patches
from mist_bench.models.selection import local_spatial_softmax
from mist_bench.reporting.tables.write import write_table
from mist_bench.run.method import use_deterministic_torch
from mist_bench.run.record import peak_memory
from mist_bench.run.training import narrow_products

TABLE = "table2"
SCENES = 256  # enough for the metrics; how cost grows with them is the benchmark `scaling`
WARM_UP = 3  # training steps before any stage is timed
SECONDS = 5.0  # of repeats per stage


def bench_stages(
    *,
    preset: str,
    experiment: str,
    method: str,
    repeats: int,
    only: Sequence[str],
    against: str | None,
) -> Result:
    """Time the stages of one configuration that ``only`` names, or all; of MIST, parts of a step.

    ``repeats`` are the most calls of a stage, and the most rounds of the comparison with the
    training step of ``against``, see ``variant``.

    Raises:
        ValueError: for a reconstruction.
    """
    config, spec = read_spec(preset, experiment, method)
    if spec.task.kind != "classification":
        raise ValueError(f"{experiment}: the stages of a classification alone are measured")
    other = variant(against, spec) if against else None
    use_deterministic_torch(spec.training.threads)
    setup = Setup(spec, images=SCENES)
    for _ in range(WARM_UP):  # as in training, where the allocator keeps what a step has freed
        setup.step()
    peak = peak_flops()
    rows = [Row("core", f"{name}_rate", rate / 1e9, "GFLOP/s") for name, rate in peak.items()]
    with tempfile.TemporaryDirectory() as work:
        single = isinstance(setup.method, Mist) and isinstance(setup.method.detector, Detector)
        parts = mist_parts(setup, setup.method) if single else {}
        cases = stage_cases(setup, config, Path(work), parts)
        settings.check_names(f"--only: stage of {method}", only, cases)
        for name in [one for one in cases if one in only or not only]:
            precision = spec.training.precision if name in parts else "float32"
            with narrow_products(precision, setup.device):
                rows += stage_rows(cases[name], repeats=repeats, fastest=max(peak.values()))
    rows.append(Row("process", "peak_memory", peak_memory()["peak_memory_mib"], "MiB"))
    pairs: list[Pair] = []
    if other and against:
        name = f"{preset} again" if against == preset else against
        cases = {name: step_case(against, other), preset: setup.step_case()}
        _, pairs = compare(cases, repeats=repeats)
        rows += pair_rows(pairs)
    about = f"{method} on {experiment}, preset {preset}, {setup.batch_size} images in a step"
    facts = {"against": against, "scenes": SCENES}
    return Result(rows, spec, about, facts, {"pairs": pairs} if pairs else {})


def stage_rows(case: Case, *, repeats: int, fastest: float) -> list[Row]:
    """Return what one stage costs: time, rates, memory, and operations if it has any.

    ``fastest`` is this core's operations per second, of which the stage's are a fraction.
    """
    flops = count_flops(case)
    grown = memory_growth(case.once)
    (timing,) = alternate([case], repeats=repeats, limit=SECONDS)
    rows = timing_rows(case.name, timing, case.images, steps=case.name == "train_step")
    if grown is not None:
        rows.append(Row(case.name, "memory_growth", grown, "MiB"))
    if flops:
        rates = [flops / one / 1e9 for one in timing.cpu]
        rows.append(Row(case.name, "operations", flops / 1e9, "GFLOP"))
        rows.append(spread(case.name, "operation_rate", rates, "GFLOP/s"))
        rows.append(spread(case.name, "fraction_of_core", [1e9 * one / fastest for one in rates]))
    return rows


def stage_cases(
    setup: Setup, config: Config, work: Path, parts: dict[str, Case]
) -> dict[str, Case]:
    """Return the case of every stage that can be measured, in the order of a run.

    ``parts`` are those of a training step; ``work`` is an empty folder for the table's results.
    """
    split, task = setup.split, setup.spec.task
    found = made_up_predictions(task, split)
    store_metrics(config, work, compute(task, split, found))
    return {
        "data": Case("data", setup.batch, setup.batch_size),
        **parts,
        "train_step": setup.step_case(),
        "prediction": setup.prediction_case(),
        "evaluation": Case("evaluation", lambda: compute(task, split, found), len(split["images"])),
        "table": Case("table", lambda: write_table(TABLE, config, work, work / "tables")),
    }


def mist_parts(setup: Setup, method: Mist) -> dict[str, Case]:
    """Return the cases of the parts of MIST's training step."""
    batch, detector, K = setup.batch(), method.detector, setup.spec.task.num_instances
    images, labels, spec = batch.images, method.head.targets(batch), detector.spec
    method.train()
    raw = detector.network(images).detach()
    heatmap, offsets = (one.detach() for one in detector(images))
    start, _ = detector.extract(heatmap, offsets, K)
    forward: list[tuple] = []  # what the next detector update goes back through

    def select() -> None:
        response = raw[:, 0]
        if spec.softmax_kernel:
            response = local_spatial_softmax(
                response, spec.softmax_kernel, spec.softmax_strength, maximum=spec.softmax_maximum
            )
        detector.extract(response, offsets, K)

    def update_keypoints() -> None:
        if method.keypoints.order == "joint":  # the gradient comes from the task's pass
            method.keypoints.move(start, start, start)
        else:
            method.update_keypoints(images, start, labels)

    def update_detector() -> None:
        method.optimizers["detector"].zero_grad()
        sum(detector.loss(*forward.pop(), start)).mean().backward()
        method.optimizers["detector"].step()

    parts: dict[str, Callable[[], object]] = {
        "heatmap": lambda: detector.network(images),
        "selection": select,
        "sampling": lambda: sample_patches(images, start, method.head.patch_size),
        "update_task": lambda: method.update_task(images, start, labels),
        "update_keypoints": update_keypoints,
        "update_detector": update_detector,
    }
    prepare = {"update_detector": lambda: forward.append(detector(images))}
    B = setup.batch_size
    return {name: Case(name, part, B, prepare.get(name)) for name, part in parts.items()}


def store_metrics(config: Config, work: Path, metrics: dict[str, float]) -> None:
    """Store the same metrics for all runs of a table."""
    for experiment, method, seed in targets.table_runs(config, TABLE):
        folder = targets.run_folder(work, experiment, method, seed)
        folder.mkdir(parents=True)
        names = {"preset": config.preset, "experiment": experiment, "method": method}
        result = {**names, "seed": seed, "status": "ok", "metrics": metrics}
        (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
