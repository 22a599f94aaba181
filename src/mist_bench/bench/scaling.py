"""How cost grows with the number of patches, the canvas and the number of images."""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from mist_bench.bench.cases import CPU, HARD, Setup, made_up_predictions, made_up_truth, read_spec
from mist_bench.bench.records import Point, Result, exponents, spread
from mist_bench.bench.timing import Case, collect, memory_growth
from mist_bench.config import resolve as settings
from mist_bench.config.schema import RunSpec
from mist_bench.datasets.multi_mnist import paste
from mist_bench.datasets.placement import poisson_disk
from mist_bench.evaluation.metrics import compute
from mist_bench.run.batches import choose, make_batch
from mist_bench.run.method import use_deterministic_torch
from mist_bench.types import TaskSpec

LIMIT = 20.0  # seconds: a point that would take longer is skipped
SIZES: Mapping[str, tuple[int, ...]] = {
    "instances": (3, 9, 25, 100),  # K, patches and objects of an image
    "canvas": (80, 160, 320, 640),  # side of an image, px
    "images": (1_000, 5_000, 20_000, 50_000),  # of a split
}
GROWTH = {"instances": 1, "canvas": 2, "images": 1}  # exponents assumed to predict a point's time
BATCH_SIZE = 8  # images in a step: of the largest canvas, a batch of 32 is 50 MB
SCENES = 128  # images evaluated where another size grows
LAYOUTS = 1024  # images generated where another size grows: what the generator throws at a time
STAMPS = 64  # different digits; more would not change a cost
WIDE = 320  # px: the canvas on which 100 digits keep their distance
Maker = Callable[[int], Case]  # size -> the case


def bench_scaling(*, preset: str, repeats: int) -> Result:
    """Measure time and memory per image of MIST on MNIST-hard at growing sizes, and their growth.

    ``repeats`` are the timed calls of a point.
    """
    config, spec = read_spec(preset, HARD, "mist")
    use_deterministic_torch(spec.training.threads)
    points = []
    layout = settings.dataset_spec(config, spec.dataset).params
    for axis, makers in operations(spec, layout).items():
        for operation, maker in makers.items():
            own = sweep(axis, operation, maker, repeats)
            points += own + exponents(own)
    return Result(points, spec, f"mist, preset {preset}")


def operations(spec: RunSpec, layout: Mapping[str, Any]) -> dict[str, dict[str, Maker]]:
    """Return what is measured on each axis: how to make an operation's case for a size.

    ``layout`` has the ``radius``, ``margin`` and ``digit_size`` of the dataset of ``spec``.
    """

    def sized(axis: str, size: int) -> Setup:
        C = spec.task.image_size[0]
        change = {"num_instances": size} if axis == "instances" else {"image_size": (C, size, size)}
        few = spec.training.model_copy(update={"batch_size": BATCH_SIZE})
        task = replace(spec.task, **change)
        return Setup(spec.model_copy(update={"task": task, "training": few}))

    K, canvas = spec.task.num_instances, spec.task.image_size[-1]
    return {
        "instances": {
            "train_step": lambda size: sized("instances", size).step_case(),
            "prediction": lambda size: sized("instances", size).prediction_case(),
            "evaluation": lambda size: evaluation(replace(spec.task, num_instances=size), SCENES),
            "generation": lambda size: generation(LAYOUTS, size, WIDE, layout),
        },
        "canvas": {
            "train_step": lambda size: sized("canvas", size).step_case(),
            "prediction": lambda size: sized("canvas", size).prediction_case(),
            "generation": lambda size: generation(LAYOUTS, K, size, layout),
        },
        "images": {
            "generation": lambda size: generation(size, K, canvas, layout),
            "batch": lambda size: batch(spec, size),
            "evaluation": lambda size: evaluation(spec.task, size),
        },
    }


def generation(size: int, count: int, canvas: int, layout: Mapping[str, Any]) -> Case:
    """Return the making of ``size`` scenes as MNIST-hard's, of stamps instead of digits."""
    rng = np.random.default_rng(0)
    side, margin = layout["digit_size"], layout["margin"]
    stamps = rng.integers(256, size=(STAMPS, side, side), dtype=np.uint8)
    low, high = math.ceil(margin - side / 2), math.floor(canvas - margin - side / 2)
    counts = np.full(size, count)

    def run() -> None:
        corners = poisson_disk(rng, size, count, layout["radius"], low, high).astype(np.int64)
        chosen = rng.integers(STAMPS, size=(size, count))
        paste(stamps, chosen, corners, counts, canvas, "max")

    return Case("generation", run, size)


def batch(spec: RunSpec, size: int) -> Case:
    """Return the making of a batch from a split of ``size`` images, its choice included."""
    split = made_up_truth(spec.task, size) | {
        "images": np.zeros((size, *spec.task.image_size), dtype=np.uint8)
    }
    count = spec.training.batch_size

    def run() -> None:
        make_batch(split, choose(spec.seed, 1, count, size), "labels", CPU)

    return Case("batch", run, count)


def evaluation(task: TaskSpec, size: int) -> Case:
    """Return all metrics of made-up predictions for ``size`` images."""
    truth = made_up_truth(task, size)
    found = made_up_predictions(task, truth)
    # metrics of a classification only count the images
    split = truth | {"images": np.empty((size, 0), dtype=np.uint8)}
    return Case("evaluation", lambda: compute(task, split, found), size)


def sweep(axis: str, operation: str, maker: Maker, repeats: int) -> list[Point]:
    """Return the points of one operation at the ascending sizes of its axis."""
    points: list[Point] = []
    maker(SIZES[axis][0]).once()  # what only the first call needs counts for no size
    before: tuple[int, float] | None = None  # the last size measured and the seconds of a call
    for size in SIZES[axis]:
        calls = repeats
        if before:
            call = before[1] * (size / before[0]) ** GROWTH[axis]
            if 2 * call > LIMIT:
                why = f"skipped: two calls of {call:.0f} s predicted, limit {LIMIT:g} s"
                points.append(Point(axis, size, operation, "wall_time", None, "s", 0, status=why))
                continue
            calls = min(repeats, max(int(LIMIT / call) - 1, 1))
        case = maker(size)
        grown = memory_growth(case.once)  # also warms up
        (timing,) = collect([case], repeats=calls, limit=LIMIT)
        before = (size, statistics.median(timing.wall))
        for quantity, seconds in (("wall_time", timing.wall), ("cpu_time", timing.cpu)):
            one = spread(operation, quantity, [each / case.images for each in seconds], "s")
            points.append(Point(axis, size, *astuple(one)))
        if grown is not None:
            value = grown / case.images
            points.append(Point(axis, size, operation, "memory", value, "MiB", 1))
    return points
