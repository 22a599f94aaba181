"""What one unit of a job costs here: a training step, or an image, from a few of each.

Steps are made over arrays made up in memory, so that no dataset is needed: what a step costs does
not depend on what the images show. B images in a step, K instances.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_bench.bench.timing import LEAST_REPEATS, Case, Timing, collect, count_flops
from mist_bench.config.schema import Config, DatasetSpec, FeatureSpec, RunSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.models.tensors import read
from mist_bench.run.batches import make_batch, to_images
from mist_bench.run.method import build_method, choose_device, seed_torch, use_deterministic_torch
from mist_bench.run.prediction import pack, predict_split
from mist_bench.run.training import narrow_products
from mist_bench.types import Method, TaskSpec

STEPS = 20  # timed steps, where they are not slow
FEW, MORE, MANY = 8, 64, 512  # images of the datasets that are timed; the last if time allows
CHUNK = 4  # images in a forward pass of a backbone
PROCESSES = 3  # of a run: training, prediction, evaluation
Spec = RunSpec | DatasetSpec | FeatureSpec


@dataclass(frozen=True)
class Cost:
    """What a job costs, as far as it could be timed.

    Attributes:
        seconds: of one unit, a step or an image; processor seconds over all threads, or seconds
            on the clock where a GPU works. ``None`` where it was not timed.
        timed: units that were timed.
        start: seconds that a job takes once.
        flops: floating-point operations of one step, as ``timing.count_flops`` counts them.
        predict: seconds of the prediction of one image.
        weights: bytes of a run's weights and checkpoint.
        prediction: bytes of the predictions of one image, before compression.
        gpu: whether a GPU did the work.
        note: why it was not timed.
    """

    seconds: float | None
    timed: int = 0
    start: float = 0.0
    flops: int = 0
    predict: float = 0.0
    weights: int = 0
    prediction: float = 0.0
    gpu: bool = False
    note: str = ""


def measurer(config: Config, limit: float) -> Callable[[Spec], Cost]:
    """Return a function that times a run, a dataset or features of ``config``.

    Args:
        config: gives the device, and what the images of datasets are.
        limit: wall seconds after which no further step or image of one of them is timed.
    """
    device = choose_device(config.device)
    start = time.process_time()  # so far, this process did what every job's does first

    def measure(spec: Spec) -> Cost:
        if isinstance(spec, DatasetSpec):
            return dataset_cost(spec, limit=limit / 4)
        dataset = config.datasets[spec.dataset]
        if isinstance(spec, FeatureSpec):
            size = dataset.image_size
            return feature_cost(spec, device, image_size=size, limit=limit, start=start)
        floats = dataset.features is not None
        return run_cost(spec, device, floats=floats, limit=limit, start=start)

    return measure


def run_cost(
    spec: RunSpec,
    device: torch.device,
    *,
    floats: bool,
    limit: float,
    start: float,
    steps: int = STEPS,
) -> Cost:
    """Return what a run costs, from its first training steps and the prediction of a batch.

    Args:
        spec: the run; its threads and its batch size are used.
        device: where it is to run.
        floats: whether its images are stored as floats, as features are.
        limit: wall seconds after which no further step begins; slow steps get one timed call.
        start: processor seconds that a process needs before it can begin.
        steps: most timed steps.
    """
    use_deterministic_torch(spec.training.threads, tf32=spec.training.precision == "tf32")
    method, split, make = training_step(spec, device, floats=floats)
    B = spec.training.batch_size
    step = lambda: read([make()])  # noqa: E731  (a GPU has then made the step, not only begun it)
    case = Case("train_step", step)
    flops = count_flops(case)
    timing = time_calls(case, calls=steps, limit=limit)
    predictions = predict_split(method, split["images"], B, device)
    run = lambda: predict_split(method, split["images"], B, device)  # noqa: E731
    prediction = time_calls(Case("prediction", run), calls=LEAST_REPEATS, limit=limit / 2)
    gpu = device.type == "cuda"
    return Cost(
        seconds=mean_of(timing, gpu),
        timed=len(timing.wall),
        start=start * PROCESSES,
        flops=flops,
        predict=mean_of(prediction, gpu) / B,
        weights=stored_bytes(method),
        prediction=sum(array.nbytes for array in pack(predictions).values()) / B,
        gpu=gpu,
    )


def training_step(
    spec: RunSpec, device: torch.device, *, floats: bool
) -> tuple[Method, dict[str, NDArray], Callable[[], Mapping[str, Tensor | float]]]:
    """Return a run's method, a batch of made-up images, and its training step on them.

    The step makes its batch, as training does, and returns its scalars, perhaps unread.
    """
    method, B = build_method(spec, device), spec.training.batch_size
    seed_torch(spec.seed, "method")
    split, index = made_up(spec.task, B, floats=floats), np.arange(B)

    def step() -> Mapping[str, Tensor | float]:
        method.train()
        batch = make_batch(split, index, method.supervision, device, spec.task)
        with narrow_products(spec.training.precision, device):
            return method.train_step(batch)

    return method, split, step


def made_up(task: TaskSpec, size: int, *, floats: bool) -> dict[str, NDArray]:
    """Return a split of ``size`` random images of a task's kind, with K instances each.

    Args:
        task: gives the shape of images, K, classes and box size.
        size: N.
        floats: images are float16 instead of uint8.
    """
    (C, H, W), K = task.image_size, task.num_instances
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(size, C, H, W), dtype=np.uint8)
    boxes = np.full((size, K, 4), task.box_size, dtype=np.float32)
    boxes[..., :2] = rng.uniform(0, [W - 1, H - 1], size=(size, K, 2))
    return {
        "images": (images / 256).astype(np.float16) if floats else images,
        "counts": np.full(size, K, dtype=np.int64),
        "labels": rng.integers(max(task.num_classes, 1), size=(size, K)),
        "boxes": boxes,
    }


def time_calls(case: Case, *, calls: int, limit: float) -> Timing:
    """Return the timing of up to ``calls`` calls in about ``limit`` wall seconds, at least one.

    The first two calls are slower, because memory is allocated then, and are left out unless so
    few fit into ``limit`` that the first has to do.
    """
    (first,) = collect([case.once], repeats=1, limit=limit)
    if LEAST_REPEATS * first.cpu[0] > limit:  # what else runs here makes no step slow
        return first
    case.once()
    return collect([case.once], repeats=calls, limit=limit)[0]


def mean_of(timing: Timing, gpu: bool) -> float:
    """Return the mean seconds of a call: of the processor, which ignores what else runs here.

    Where a GPU works, the processor waits, and the clock counts.
    """
    return statistics.mean(timing.wall if gpu else timing.cpu)


def stored_bytes(method: Method) -> int:
    """Return the bytes of a run's weights, which it keeps twice, and of its checkpoint."""
    weights = total_bytes(method.state_dict().values())
    states = [one for opt in method.optimizers.values() for one in opt.state.values()]
    return 3 * weights + total_bytes(value for state in states for value in state.values())


def total_bytes(values: Iterable[object]) -> int:
    """Return the bytes of the tensors among ``values``."""
    return sum(one.numel() * one.element_size() for one in values if isinstance(one, Tensor))


def dataset_cost(spec: DatasetSpec, *, limit: float) -> Cost:
    """Return what a dataset costs, from small ones in a temporary folder.

    What one image more takes is told from two of different size, so that the reading of digits
    counts once a split.

    Args:
        spec: the dataset; photographs are neither fetched nor read.
        limit: processor seconds; if ``MORE`` images take longer, no more are made.
    """
    if spec.params.get("root") or spec.params.get("download"):
        return Cost(None, note="photographs")

    def seconds(size: int) -> float:
        few = spec.model_copy(update={"sizes": {"train": size}})
        with tempfile.TemporaryDirectory() as folder:
            run = partial(build_dataset, few, Path(folder, spec.name))
            return Case("dataset", run).once()[1]

    try:
        seconds(1)  # the first imports what the others need
        least, timed, more = seconds(FEW), MORE, seconds(MORE)
        each = max(more - least, 0.0) / (MORE - FEW)
        if more < limit:
            timed, more = MANY, seconds(MANY)
            each = max(more - least, 0.0) / (MANY - FEW)
    except (ValueError, OSError) as error:
        return Cost(None, note=" ".join(str(error).split()))
    start = max(least - each * FEW, 0.0) * len(spec.sizes)
    return Cost(each, timed=timed, start=start)


def feature_cost(
    spec: FeatureSpec,
    device: torch.device,
    *,
    image_size: tuple[int, int, int],
    limit: float,
    start: float,
) -> Cost:
    """Return what a dataset's features cost, from a few images that go through the backbone.

    Args:
        spec: the backbone; if its weights can only be had by a download, random ones are timed.
        device: where it is to run.
        image_size: (3, H, W) of the images.
        limit: wall seconds after which no further images are looked at.
        start: processor seconds that a process needs before it can begin.
    """
    use_deterministic_torch(1)
    module = importlib.import_module(spec.network.module)
    build = getattr(module, "trunk", None)
    network = build() if build else module.build(**spec.network.params)
    network = network.to(device, memory_format=torch.channels_last).eval()
    images = np.random.default_rng(0).integers(256, size=(CHUNK, *image_size), dtype=np.uint8)
    gpu = device.type == "cuda"

    @torch.no_grad()
    def run() -> NDArray:
        return network(to_images(images, device)).cpu().numpy()

    timing = time_calls(Case("features", run), calls=STEPS, limit=limit)
    timed = CHUNK * len(timing.wall)
    return Cost(mean_of(timing, gpu) / CHUNK, timed=timed, start=start, gpu=gpu)
