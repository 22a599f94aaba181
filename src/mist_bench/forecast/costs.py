"""What one unit of a job costs here: a training step, or an image, from a few of each.

Steps are made over images made up in memory, so that no dataset is needed.
"""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_bench.bench.cases import Setup
from mist_bench.bench.timing import LEAST_REPEATS, Case, Timing, collect, count_flops
from mist_bench.config.schema import Config, DatasetSpec, FeatureSpec, RunSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.models.tensors import read
from mist_bench.run.batches import to_images
from mist_bench.run.method import choose_device, use_deterministic_torch
from mist_bench.run.prediction import pack
from mist_bench.types import Method

STEPS = 20  # timed steps, where they are not slow
FEW, MORE, MANY = 8, 64, 512  # images of the datasets that are timed; the last if time allows
CHUNK = 4  # images in a forward pass of a backbone
PROCESSES = 3  # of a run: training, prediction, evaluation
Spec = RunSpec | DatasetSpec | FeatureSpec


@dataclass(frozen=True)
class Cost:
    """What a job costs, as far as it could be timed.

    Seconds are those of the processor over all threads, or on the clock where a GPU works.
    """

    seconds: float | None  # of one unit, a step or an image; None where it was not timed
    timed: int = 0  # units
    start: float = 0.0  # seconds that a job takes once
    flops: int = 0  # of one step
    predict: float = 0.0  # seconds of the prediction of one image
    weights: int = 0  # bytes of a run's weights and checkpoint
    prediction: float = 0.0  # bytes of the predictions of one image, before compression
    gpu: bool = False  # did the work
    note: str = ""  # why it was not timed


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
        if isinstance(spec, FeatureSpec):
            size = config.datasets[spec.dataset].image_size
            return feature_cost(spec, device, image_size=size, limit=limit, start=start)
        return run_cost(spec, device, limit=limit, start=start)

    return measure


def run_cost(spec: RunSpec, device: torch.device, *, limit: float, start: float) -> Cost:
    """Return what a run costs, from its first training steps and the prediction of a batch.

    ``start`` are the seconds of the processor before a process can begin.
    """
    use_deterministic_torch(spec.training.threads, tf32=spec.training.precision == "tf32")
    setup, gpu = Setup(spec, device=device), device.type == "cuda"
    # read: a GPU has then made the step, not only begun it
    step = Case("train_step", lambda: read([setup.step()]))
    flops = count_flops(step)
    timing = time_calls(step, calls=STEPS, limit=limit)
    prediction = time_calls(setup.prediction_case(), calls=LEAST_REPEATS, limit=limit / 2)
    stored = pack(setup.predict()).values()
    return Cost(
        seconds=mean_of(timing, gpu),
        timed=len(timing.wall),
        start=start * PROCESSES,
        flops=flops,
        predict=mean_of(prediction, gpu) / setup.batch_size,
        weights=stored_bytes(setup.method),
        prediction=sum(array.nbytes for array in stored) / setup.batch_size,
        gpu=gpu,
    )


def time_calls(case: Case, *, calls: int, limit: float) -> Timing:
    """Return the timing of up to ``calls`` calls in about ``limit`` wall seconds, at least one.

    The first two calls are slower, because memory is allocated then, and are left out unless so
    few fit into ``limit`` that the first has to do.
    """
    (first,) = collect([case], repeats=1, limit=limit)
    if LEAST_REPEATS * first.cpu[0] > limit:  # what else runs here makes no step slow
        return first
    case.once()
    return collect([case], repeats=calls, limit=limit)[0]


def mean_of(timing: Timing, gpu: bool) -> float:
    """Return the mean seconds of a call: of the processor, or on the clock where a GPU works."""
    return statistics.mean(timing.wall if gpu else timing.cpu)


def stored_bytes(method: Method) -> int:
    """Return the bytes of a run's weights, which it keeps twice, and of its checkpoint."""
    states = [one for opt in method.optimizers.values() for one in opt.state.values()]
    moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    stored = [*method.state_dict().values()] * 3 + moments
    return sum(one.nbytes for one in stored)


def dataset_cost(spec: DatasetSpec, *, limit: float) -> Cost:
    """Return what a dataset costs, from small ones in a temporary folder.

    What one image more takes is told from two of different size, so that the reading of digits
    counts once a split. Photographs are neither fetched nor read. If ``MORE`` images take longer
    than ``limit`` seconds of the processor, no more are made.
    """
    if spec.params.get("root") or spec.params.get("download"):
        return Cost(None, note="photographs")

    def seconds(size: int) -> float:
        few = spec.model_copy(update={"sizes": {"train": size}})
        with tempfile.TemporaryDirectory() as folder:
            return Case("", partial(build_dataset, few, Path(folder, spec.name))).once()[1]

    try:
        seconds(1)  # the first imports what the others need
        least, timed, more = seconds(FEW), MORE, seconds(MORE)
        if more < limit:
            timed, more = MANY, seconds(MANY)
    except (ValueError, OSError) as error:
        return Cost(None, note=" ".join(str(error).split()))
    each = max(more - least, 0.0) / (timed - FEW)
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
    """Return what features of (3, H, W) images cost, from a few that go through the backbone.

    If its weights can only be had by a download, random ones are timed.
    """
    use_deterministic_torch(1)
    module = importlib.import_module(spec.network.module)
    network = module.trunk() if hasattr(module, "trunk") else module.build(**spec.network.params)
    network = network.to(device, memory_format=torch.channels_last).eval()
    images = np.random.default_rng(0).integers(256, size=(CHUNK, *image_size), dtype=np.uint8)
    gpu = device.type == "cuda"

    @torch.no_grad()
    def run() -> NDArray:
        return network(to_images(images, device)).cpu().numpy()

    timing = time_calls(Case("features", run), calls=STEPS, limit=limit)
    timed = CHUNK * len(timing.wall)
    return Cost(mean_of(timing, gpu) / CHUNK, timed=timed, start=start, gpu=gpu)
