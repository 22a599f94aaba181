"""What is measured: the stages of a run, on scenes made up in memory.

The scenes have the sizes of the experiment's, so that no data set is needed; what a step costs
does not depend on what the images show.

Shapes: N images, B batch, K keypoints, L instances, C channels, H W image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from mist_bench.bench.timing import Case
from mist_bench.config import targets
from mist_bench.config.schema import Config, RunSpec
from mist_bench.datasets.multi_mnist import paste
from mist_bench.evaluation.metrics import compute
from mist_bench.mist import Mist
from mist_bench.models.heads import label_histogram
from mist_bench.models.sampler import sample_patches
from mist_bench.models.selection import local_spatial_softmax
from mist_bench.official.step import OfficialStep
from mist_bench.reporting.tables.write import write_table
from mist_bench.run.batches import choose, make_batch
from mist_bench.run.method import build_method
from mist_bench.run.prediction import predict_split
from mist_bench.run.training import narrow_products
from mist_bench.types import Method, TaskSpec

TABLE = "table2"
STAMPS = 64  # different stamps; more would not change a cost
CPU = torch.device("cpu")
Arrays = dict[str, NDArray]


def make_truth(rng: Generator, size: int, task: TaskSpec) -> Arrays:
    """Return counts, labels and boxes of K objects at random places in each of ``size`` images.

    Args:
        rng: the only source of randomness.
        size: N.
        task: gives image size, K, classes and box size.
    """
    K, side = task.num_instances, int(task.box_size)
    room = [max(length - side, 1) for length in reversed(task.image_size[1:])]
    boxes = np.full((size, K, 4), task.box_size, dtype=np.float32)
    boxes[..., :2] = rng.integers(0, room, size=(size, K, 2)) + (side - 1) / 2
    return {
        "counts": np.full(size, K, dtype=np.int64),
        "labels": rng.integers(task.num_classes, size=(size, K)),
        "boxes": boxes,
    }


def make_scenes(rng: Generator, size: int, task: TaskSpec) -> Arrays:
    """Return a split of ``size`` images with a random stamp under each object's box."""
    C, H, W = task.image_size
    side = int(task.box_size)
    truth = make_truth(rng, size, task)
    corners = (truth["boxes"][..., :2] - (side - 1) / 2).astype(np.int64)
    stamps = rng.integers(256, size=(STAMPS, side, side), dtype=np.uint8)
    chosen = rng.integers(STAMPS, size=truth["labels"].shape)
    images = paste(stamps, chosen, corners, truth["counts"], max(H, W), "max")
    return truth | {"images": np.repeat(images[:, None, :H, :W], C, axis=1)}


def make_predictions(rng: Generator, truth: Arrays, task: TaskSpec) -> Arrays:
    """Return predictions that are right as often as not: near the truth, labels partly random."""
    boxes, labels = truth["boxes"].copy(), truth["labels"].copy()
    boxes[..., :2] += rng.normal(0, task.box_size / 6, boxes[..., :2].shape)
    wrong = rng.random(labels.shape) < 0.1
    labels[wrong] = rng.integers(task.num_classes, size=wrong.sum())
    scores = rng.random(labels.shape, dtype=np.float32)
    return {"counts": truth["counts"], "boxes": boxes, "scores": scores, "labels": labels}


class Setup:
    """One configuration, built: its method, scenes and a batch of them.

    Args:
        spec: what to build; a classification.
        images: N, scenes to make.
    """

    def __init__(self, spec: RunSpec, images: int):
        if spec.task.kind != "classification":
            raise ValueError(f"{spec.experiment}: only classification is measured yet")
        self.spec, self.task = spec, spec.task
        self.batch_size = spec.training.batch_size
        self.rng = np.random.default_rng(spec.seed)
        self.split = make_scenes(self.rng, max(images, self.batch_size), spec.task)
        self.method: Method = build_method(spec, CPU)
        self.batch = self.load()

    def load(self) -> object:
        """Return the first batch, as the training loop makes it."""
        index = choose(self.spec.seed, 1, self.batch_size, len(self.split["images"]))
        return make_batch(self.split, index, self.method.supervision, CPU)

    def train_step(self) -> Case:
        """Return one training step, without making its batch."""
        run = self.narrowed(lambda: self.method.train_step(self.batch))
        return Case("train_step", run, self.batch_size, self.method.train)

    def narrowed(self, run: Callable[[], object]) -> Callable[[], object]:
        """Return ``run`` in the precision that the configuration trains in."""

        def narrow() -> object:
            with narrow_products(self.spec.training.precision, CPU):
                return run()

        return narrow

    def official_step(self) -> Case:
        """Return the official code's step over the same method."""
        step = OfficialStep(self.method)
        return Case("train_step", lambda: step(self.batch), self.batch_size, self.method.train)

    def prediction(self) -> Case:
        """Return the prediction of one batch of images."""
        images = self.split["images"][: self.batch_size]
        run = lambda: predict_split(self.method, images, self.batch_size, CPU)  # noqa: E731
        return Case("prediction", run, self.batch_size)

    def evaluation(self) -> Case:
        """Return all metrics of made-up predictions for every scene."""
        found = make_predictions(self.rng, self.split, self.task)
        run = lambda: compute(self.task, self.split, found)  # noqa: E731
        return Case("evaluation", run, len(self.split["images"]))


def stage_cases(setup: Setup, config: Config, work: Path) -> dict[str, Callable[[], Case]]:
    """Return how to make the case of every stage that can be measured, in the order of a run.

    Args:
        setup: the configuration.
        config: of its preset, for the table.
        work: an empty folder for the table's results.
    """
    makers = {"data": lambda: Case("data", setup.load, setup.batch_size)}
    if isinstance(setup.method, Mist):
        makers |= mist_cases(setup)
    return makers | {
        "train_step": setup.train_step,
        "prediction": setup.prediction,
        "evaluation": setup.evaluation,
        "table": lambda: table_case(setup, config, work),
    }


def mist_cases(setup: Setup) -> dict[str, Callable[[], Case]]:
    """Return how to make the cases of the parts of MIST's training step."""
    method, images = setup.method, setup.batch.images
    detector, K = method.detector, setup.task.num_instances
    labels = label_histogram(setup.batch.labels, setup.task.num_classes)
    method.train()
    raw = detector.network(images).detach()
    heatmap, offsets = (one.detach() for one in detector(images))
    start, _ = detector.extract(heatmap, offsets, K)
    forward: list[tuple] = []  # what the next detector update goes back through

    def select() -> None:
        response = raw[:, 0]
        if detector.softmax_kernel:
            response = local_spatial_softmax(
                response,
                detector.softmax_kernel,
                detector.softmax_strength,
                maximum=detector.softmax_maximum,
            )
        detector.extract(response, offsets, K)

    def update_keypoints() -> None:
        if method.order == "joint":  # the gradient comes from the task's pass
            method.keypoints.move(start, start, start)
        else:
            method.update_keypoints(images, start, labels)

    def look() -> None:
        method.train()
        forward[:] = [detector(images)]

    def update_detector() -> None:
        method.optimizers["detector"].zero_grad()
        sum(detector.loss(*forward.pop(), start)).mean().backward()
        method.optimizers["detector"].step()

    def case(name: str, run: Callable, prepare: Callable = method.train) -> Callable[[], Case]:
        return lambda: Case(name, setup.narrowed(run), setup.batch_size, setup.narrowed(prepare))

    size = method.head.patch_size
    return {
        "heatmap": case("heatmap", lambda: detector.network(images)),
        "selection": case("selection", select),
        "sampling": case("sampling", lambda: sample_patches(images, start, size)),
        "update_task": case("update_task", lambda: method.update_task(images, start, labels)),
        "update_keypoints": case("update_keypoints", update_keypoints),
        "update_detector": case("update_detector", update_detector, look),
    }


def table_case(setup: Setup, config: Config, work: Path) -> Case:
    """Return the writing of one table from made-up metrics of all its runs."""
    found = make_predictions(setup.rng, setup.split, setup.task)
    metrics = compute(setup.task, setup.split, found)
    for experiment, method, seed in targets.table_runs(config, TABLE):
        folder = targets.run_folder(work, experiment, method, seed)
        folder.mkdir(parents=True)
        names = {"preset": config.preset, "experiment": experiment, "method": method}
        result = {**names, "seed": seed, "status": "ok", "metrics": metrics}
        (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    return Case("table", lambda: write_table(TABLE, config, work, work / "tables"))
