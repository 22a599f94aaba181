"""How soon a method reaches given values of *Both*: its learning curve against processor seconds.

Trains as ``training.train`` does, schedule included, but stores nothing and stops when the highest
value is reached. Unlike the other benchmarks it needs the real data set.
"""

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mist_bench.bench.cases import CPU, read_spec
from mist_bench.bench.records import Look, Result, Row
from mist_bench.config import resolve as settings
from mist_bench.config.schema import RunSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import load_split
from mist_bench.evaluation.metrics import compute
from mist_bench.run import training
from mist_bench.run.method import build_method, seed_torch, use_deterministic_torch
from mist_bench.run.prediction import pack, predict_split
from mist_bench.run.record import peak_memory

METRICS = ("both", "iou50", "classification")
EVERY = 50  # steps between two looks
IMAGES = 256  # of the val split in one look
logger = logging.getLogger("mist_bench")


def bench_learning(
    *, preset: str, experiment: str, method: str, reach: Sequence[float], limit: float
) -> Result:
    """Train until *Both* on val is ``reach``, fractions, and tell when which one was first seen.

    One that is not seen within ``limit`` processor seconds of training has the time NaN.

    Raises:
        ValueError: for an experiment without labels, or whose method sees features.
    """
    config, spec = read_spec(preset, experiment, method)
    if spec.task.kind != "classification" or config.datasets[spec.dataset].features:
        raise ValueError(f"{experiment}: only the learning of a classification of images is timed")
    use_deterministic_torch(spec.training.threads)
    goals = sorted(reach)
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / spec.dataset
        build_dataset(settings.dataset_spec(config, spec.dataset), data)
        looks = learn(spec, data, until=goals[-1], limit=limit)
    rows = [Row(f"{100 * goal:g}%", "cpu_time", first(looks, goal), "s") for goal in goals]
    rows.append(Row("last", "both", looks[-1].both))
    rows.append(Row("process", "peak_memory", peak_memory()["peak_memory_mib"], "MiB"))
    about = f"{method} on {experiment}, preset {preset}, seed {spec.seed}"
    return Result(rows, spec, about, {"every": EVERY, "images": IMAGES}, {"curve": looks})


def learn(spec: RunSpec, data: Path, *, until: float, limit: float) -> list[Look]:
    """Return the looks of a training that ends when *Both* is ``until``, or at the limit."""
    split, val = load_split(data, "train"), load_split(data, "val")
    val = {name: array[:IMAGES] for name, array in val.items()}
    method, budget = build_method(spec, CPU), spec.training
    training.remember_learning_rates(method.optimizers)
    seed_torch(spec.seed, "method")
    looks: list[Look] = []
    seconds = 0.0
    for step in range(1, budget.steps + 1):
        start = time.process_time()
        training.make_step(method, split, spec, step, CPU)
        seconds += time.process_time() - start
        last = step == budget.steps or seconds > limit
        if step % EVERY == 0 or last:
            found = pack(predict_split(method, val["images"], budget.batch_size, CPU))
            metrics = compute(spec.task, val, found)
            looks.append(Look(step, seconds, *(metrics[name] for name in METRICS)))
            logger.info("step %d, %.0f s: Both %.3f", step, seconds, looks[-1].both)
            if last or looks[-1].both >= until:
                break
    return looks


def first(looks: Sequence[Look], goal: float) -> float:
    """Return the seconds at the first look that saw ``goal``; NaN if none did."""
    return next((look.seconds for look in looks if look.both >= goal), float("nan"))
