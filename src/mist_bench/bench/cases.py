"""What is measured: runs of presets, variants of them, and these on images made up in memory.

What a step costs does not depend on what the images show, only on their sizes.
N images, B of them in a batch, K instances, C channels, H W image.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_bench.bench.timing import Case
from mist_bench.config import files, targets
from mist_bench.config import resolve as settings
from mist_bench.config.keywords import parameters
from mist_bench.config.schema import Config, RunSpec
from mist_bench.config.user import decoded, user_text
from mist_bench.official.step import OfficialStep
from mist_bench.run.batches import choose, make_batch
from mist_bench.run.method import build_method, seed_torch
from mist_bench.run.prediction import predict_split
from mist_bench.run.training import make_step, remember_learning_rates
from mist_bench.types import Batch, Prediction, TaskSpec

CPU = torch.device("cpu")
Arrays = dict[str, NDArray]
# the named variant: the networks of the preset, the step of the official code
OFFICIAL, OFFICIAL_PRESET = "official", "paper"
HARD = "mnist_hard_classification"  # what is measured unless another experiment is named


def read_spec(preset: str, experiment: str, method: str) -> tuple[Config, RunSpec]:
    """Return a preset's configuration and its run of ``method`` with the first seed.

    Raises:
        ConfigError: in one line, for an unknown name.
    """
    config = settings.load(targets.SETTINGS, {"preset": preset})
    targets.check_run(config, experiment, method)
    return config, settings.run_spec(config, experiment, method, config.seeds[0])


def variant(name: str, spec: RunSpec) -> RunSpec:
    """Return what ``name`` stands for: a preset, ``official``, or ``key=value`` of ``params``.

    Dots in a key lead to nested ones: ``detector.channels=16``.

    Raises:
        ConfigError: in one line, for an unknown preset or key, or a value that a key cannot have.
    """
    key, equals, value = name.partition("=")
    if equals:
        model = parameters(spec.module, "build", spec.task.kind)
        nested = reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), value)
        change = decoded(user_text(nested), model, spec.params)
        given, kind = files.merge(spec.params, change), spec.task.kind
        params = settings.resolved("--against: params", spec.module, "build", kind, given)
        return spec.model_copy(update={"params": params})
    presets = sorted(path.stem for path in (targets.SETTINGS / "presets").glob("*.yaml"))
    settings.check_names("--against: preset", [name], [*presets, OFFICIAL])
    if name != OFFICIAL:
        return read_spec(name, spec.experiment, spec.method)[1]
    paper = read_spec(OFFICIAL_PRESET, spec.experiment, "mist")[1]
    # the official code sees a gray image as three equal channels
    image_size = (3, *paper.task.image_size[1:])
    return paper.model_copy(update={"task": replace(paper.task, image_size=image_size)})


def made_up_truth(task: TaskSpec, size: int) -> Arrays:
    """Return counts, labels and boxes of K objects at random places in each of ``size`` images."""
    (_, H, W), K = task.image_size, task.num_instances
    rng = np.random.default_rng(0)
    boxes = np.full((size, K, 4), task.box_size, dtype=np.float32)
    boxes[..., :2] = rng.uniform(0, [W - 1, H - 1], size=(size, K, 2))
    return {
        "counts": np.full(size, K, dtype=np.int64),
        "labels": rng.integers(max(task.num_classes, 1), size=(size, K)),
        "boxes": boxes,
    }


def made_up(task: TaskSpec, size: int) -> Arrays:
    """Return a split of ``size`` images of noise, uint8, or features, float16: these have C > 3."""
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(size, *task.image_size), dtype=np.uint8)
    if task.image_size[0] > 3:
        images = (images / 256).astype(np.float16)
    return {"images": images, **made_up_truth(task, size)}


def made_up_predictions(task: TaskSpec, truth: Arrays) -> Arrays:
    """Return predictions that are right as often as not: near the truth, labels partly random."""
    rng = np.random.default_rng(2)
    boxes, labels = truth["boxes"].copy(), truth["labels"].copy()
    boxes[..., :2] += rng.normal(0, task.box_size / 6, boxes[..., :2].shape)
    wrong = rng.random(labels.shape) < 0.1
    labels[wrong] = rng.integers(task.num_classes, size=wrong.sum())
    scores = rng.random(labels.shape, dtype=np.float32)
    return {"counts": truth["counts"], "boxes": boxes, "scores": scores, "labels": labels}


class Setup:
    """One run, built: its method, at least ``images`` made-up images, and its steps on them."""

    def __init__(self, spec: RunSpec, *, device: torch.device = CPU, images: int = 0):
        self.spec, self.device = spec, device
        self.batch_size = spec.training.batch_size
        self.split = made_up(spec.task, max(images, self.batch_size))
        self.method = build_method(spec, device)
        remember_learning_rates(self.method.optimizers)
        seed_torch(spec.seed, "method")
        self.steps = 0

    def step(self) -> Mapping[str, Tensor | float]:
        """Make the next training step, its batch too, and return its scalars, perhaps unread."""
        self.steps += 1
        return make_step(self.method, self.split, self.spec, self.steps, self.device)

    def batch(self) -> Batch:
        """Return the first batch, as the training loop makes it."""
        index = choose(self.spec.seed, 1, self.batch_size, len(self.split["images"]))
        return make_batch(self.split, index, self.method.supervision, self.device, self.spec.task)

    def predict(self) -> list[Prediction]:
        """Return the predictions for B images."""
        images = self.split["images"][: self.batch_size]
        return predict_split(self.method, images, self.batch_size, self.device)

    def step_case(self) -> Case:
        """Return the training step as something to measure."""
        return Case("train_step", self.step, self.batch_size)

    def prediction_case(self) -> Case:
        """Return the predictions for B images as something to measure."""
        return Case("prediction", self.predict, self.batch_size)


def step_case(name: str, spec: RunSpec) -> Case:
    """Return the training step of ``spec``, in the official code's way if that is its name."""
    setup = Setup(spec)
    if name != OFFICIAL:
        return setup.step_case()
    step = OfficialStep(setup.method.train())
    return Case("train_step", lambda: step(setup.batch()), setup.batch_size)
