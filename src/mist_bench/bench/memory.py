"""Peak memory against the number N of locations: the paper's reason against masks (Sec. 5.1, C.2).

A mask multiplies what is at every location, so that all of it stays in memory; a selection keeps
the K best. Measured forward and back: both masks on class probabilities that are there already, as
in a region proposal network, then what MIST does with its selection, and what it would take to do
the same under a mask: a classified patch at every location.

Shapes: B images, N = side^2 locations, K selected, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mist_bench.baselines.parts.masks import sinkhorn_top_k, soft_top_k
from mist_bench.bench import plots
from mist_bench.bench.cases import CPU
from mist_bench.bench.compare import read_spec
from mist_bench.bench.records import describe, write_record, write_rows
from mist_bench.bench.scaling import Point, exponents
from mist_bench.bench.timing import memory_growth
from mist_bench.models.heads import BoxClassifier, classification_loss
from mist_bench.models.selection import to_keypoints, top_k
from mist_bench.run.method import build_method, use_deterministic_torch

SIDES = (20, 40, 80, 160, 320)  # of the map; 80: a location per pixel of MNIST-hard
ITERATIONS = 200  # of Sinkhorn: the default of Xie20's published code
IMAGES = 64  # in a call without patches: of one image, a small map would be below a page
LIMIT = 4096.0  # MiB: a point that would take more is skipped


@dataclass(frozen=True)
class Scene:
    """What is measured on: the sizes of an experiment, and MIST's classifier for it.

    Attributes:
        head: classifies patches.
        image_size: (C, H, W).
        box_size: side of a patch, px.
        num_instances: K.
        num_classes: C.
        nms_kernel: side of the suppression's window, cells.
        epsilon: of both masks.
    """

    head: BoxClassifier
    image_size: tuple[int, int, int]
    box_size: float
    num_instances: int
    num_classes: int
    nms_kernel: int
    epsilon: float

    def masked_locations(self, operator: Callable[..., Tensor], side: int) -> int:
        """Mask the class probabilities of N locations, back to both; return the images."""
        scores = torch.rand(IMAGES, side**2, requires_grad=True)
        probs = torch.rand(IMAGES, side**2, self.num_classes, requires_grad=True)
        self.masked_loss(operator, scores, probs).backward()
        return IMAGES

    def masked_patches(self, operator: Callable[..., Tensor], side: int) -> int:
        """Classify a patch at each of N locations and mask the classes; return the images."""
        scores = torch.rand(1, side**2, requires_grad=True)
        probs = self.classify(torch.arange(side**2)[None], side)
        self.masked_loss(operator, scores, probs).backward()
        return 1

    def selected_patches(self, side: int) -> int:
        """Select K of N locations and classify their patches; return the images."""
        index, _ = top_k(torch.rand(1, side, side), self.num_instances, self.nms_kernel)
        probs = self.classify(index, side)
        self.loss(probs).backward()
        return 1

    def classify(self, index: Tensor, side: int) -> Tensor:
        """Return the (B, M, C) probabilities of the patches at (B, M) cells of a map."""
        _, H, W = self.image_size
        centers = to_keypoints(index, side) * torch.tensor([W, H]) / side
        boxes = torch.cat([centers, torch.full_like(centers, self.box_size)], dim=-1)
        return self.head(torch.rand(len(index), *self.image_size), boxes.requires_grad_())

    def masked_loss(self, operator: Callable[..., Tensor], scores: Tensor, probs: Tensor) -> Tensor:
        """Return Eq. 12 of (B, N) scores and (B, N, C) probabilities."""
        mask = operator(scores, self.num_instances, epsilon=self.epsilon)
        mean = (mask[:, None] @ probs) / self.num_instances  # (B, 1, C)
        return self.loss(mean)

    def loss(self, probs: Tensor) -> Tensor:
        """Return Eq. 9 of (B, M, C) probabilities against uniform labels, summed."""
        histogram = torch.full((len(probs), self.num_classes), 1 / self.num_classes)
        return classification_loss(probs, histogram).sum()


def bench_memory(
    out: Path, *, preset: str, sides: Sequence[int] = SIDES, limit: float = LIMIT
) -> list[Point]:
    """Measure the peak memory per image of masks and of a selection at growing N.

    Args:
        out: folder for memory.csv, memory.json and memory.png.
        preset: whose experiment MNIST-hard gives patches, classifier, K and epsilon.
        sides: of the map, ascending.
        limit: MiB; larger points are skipped.

    Returns:
        The rows of memory.csv.
    """
    experiment = "mnist_hard_classification"
    _, mist = read_spec(preset, experiment, "mist")
    _, xie20 = read_spec(preset, experiment, "soft_topk")
    use_deterministic_torch(mist.training.threads)
    task = mist.task
    scene = Scene(
        build_method(mist, CPU).head,
        task.image_size,
        task.box_size,
        task.num_instances,
        task.num_classes,
        mist.params["nms_kernel"],
        xie20.params["epsilon"],
    )
    points = []
    for operation, run in operations(scene).items():
        own = grow(operation, run, sides, limit)
        points += own + exponents(own)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "memory.csv", points)
    record = write_record(out / "memory.json", {"spec": mist.model_dump(mode="json")})
    about = f"MNIST-hard, preset {preset}, forward and back. {describe(record)}"
    plots.save(plots.draw_scaling(points, about), out / "memory.png")
    return points


def operations(scene: Scene) -> Mapping[str, Callable[[int], int]]:
    """Return what is measured by name: calls that take the map's side and return the images."""
    sinkhorn = partial(sinkhorn_top_k, iterations=ITERATIONS)
    return {
        "MIST: K patches": scene.selected_patches,
        "exact mask": partial(scene.masked_locations, soft_top_k),
        "Sinkhorn mask": partial(scene.masked_locations, sinkhorn),
        "exact mask, N patches": partial(scene.masked_patches, soft_top_k),
        "Sinkhorn mask, N patches": partial(scene.masked_patches, sinkhorn),
    }


def grow(
    operation: str, run: Callable[[int], int], sides: Sequence[int], limit: float
) -> list[Point]:
    """Return the points of one operation at ascending sides; memory is taken to grow with N."""
    points: list[Point] = []
    run(sides[0])  # what only the first call needs counts for no size
    before: tuple[int, float] | None = None  # the last N and its MiB
    for side in sides:
        N = side**2
        expected = before[1] * N / before[0] if before else 0.0
        if expected > limit:
            why = f"skipped: {expected:,.0f} MiB predicted, limit {limit:,g} MiB"
            points.append(Point("locations", N, operation, "memory", None, "MiB", 0, status=why))
            continue
        images: list[int] = []
        grown = memory_growth(lambda side=side, images=images: images.append(run(side)))
        if grown is None:
            raise ValueError("memory: this system does not say how much a call needs; use Linux")
        points.append(Point("locations", N, operation, "memory", grown / images[0], "MiB", 1))
        before = N, grown
    return points
