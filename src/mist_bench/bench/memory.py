"""Peak memory against the number N of locations: the paper's reason against masks (Sec. 5.1, C.2).

A mask multiplies what is at every location, so that all of it stays in memory; a selection keeps
the K best. Measured forward and back: both masks on class probabilities that are there already, as
in a region proposal network, then what MIST does with its selection, and what it would take to do
the same under a mask: a classified patch at every location.

Shapes: B images, N = side^2 locations, K selected, M patches, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mist_bench.baselines.parts.masks import sinkhorn_top_k, soft_top_k
from mist_bench.bench.cases import CPU, HARD, read_spec
from mist_bench.bench.records import Point, Result, exponents
from mist_bench.bench.timing import memory_growth
from mist_bench.models.heads import BoxClassifier, classification_loss
from mist_bench.models.selection import to_keypoints, top_k
from mist_bench.run.method import build_method, use_deterministic_torch
from mist_bench.types import TaskSpec

SIDES = (20, 40, 80, 160, 320)  # of the map; 80: a location per pixel of MNIST-hard
ITERATIONS = 200  # of Sinkhorn: the default of Xie20's published code
IMAGES = 64  # in a call without patches: of one image, a small map would be below a page
LIMIT = 4096.0  # MiB: a point that would take more is skipped


@dataclass(frozen=True)
class Scene:
    """The sizes of an experiment, MIST's classifier and selection window, both masks' epsilon."""

    task: TaskSpec
    head: BoxClassifier
    nms_kernel: int
    epsilon: float

    def masked_locations(self, operator: Callable[..., Tensor], side: int) -> int:
        """Mask the class probabilities of N locations, back to both; return the images."""
        scores = torch.rand(IMAGES, side**2, requires_grad=True)
        probs = torch.rand(IMAGES, side**2, self.task.num_classes, requires_grad=True)
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
        index, _ = top_k(torch.rand(1, side, side), self.task.num_instances, self.nms_kernel)
        self.loss(self.classify(index, side)).backward()
        return 1

    def classify(self, index: Tensor, side: int) -> Tensor:
        """Return the (B, M, C) probabilities of the patches at (B, M) cells of a map."""
        _, H, W = self.task.image_size
        centers = to_keypoints(index, side) * torch.tensor([W, H]) / side
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        return self.head(torch.rand(len(index), *self.task.image_size), boxes.requires_grad_())

    def masked_loss(self, operator: Callable[..., Tensor], scores: Tensor, probs: Tensor) -> Tensor:
        """Return Eq. 12 of (B, N) scores and (B, N, C) probabilities."""
        mask = operator(scores, self.task.num_instances, epsilon=self.epsilon)
        return self.loss((mask[:, None] @ probs) / self.task.num_instances)

    def loss(self, probs: Tensor) -> Tensor:
        """Return Eq. 9 of (B, M, C) probabilities against uniform labels, summed."""
        C = self.task.num_classes
        return classification_loss(probs, torch.full((len(probs), C), 1 / C)).sum()


def bench_memory(*, preset: str) -> Result:
    """Measure the peak memory per image of masks and of a selection at growing N.

    Patches, classifier, K and epsilon are those of the preset's MNIST-hard.
    """
    _, mist = read_spec(preset, HARD, "mist")
    _, xie20 = read_spec(preset, HARD, "soft_topk")
    use_deterministic_torch(mist.training.threads)
    method = build_method(mist, CPU)
    kernel, epsilon = method.detector.spec.nms_kernel, xie20.params["epsilon"]
    points = []
    for operation, run in operations(Scene(mist.task, method.head, kernel, epsilon)).items():
        own = grow(operation, run)
        points += own + exponents(own)
    return Result(points, mist, f"MNIST-hard, preset {preset}, forward and back")


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


def grow(operation: str, run: Callable[[int], int]) -> list[Point]:
    """Return the points of one operation at ascending sides; memory is taken to grow with N."""
    points: list[Point] = []
    run(SIDES[0])  # what only the first call needs counts for no size
    before: tuple[int, float] | None = None  # the last N and its MiB
    for side in SIDES:
        N = side**2
        expected = before[1] * N / before[0] if before else 0.0
        if expected > LIMIT:
            why = f"skipped: {expected:,.0f} MiB predicted, limit {LIMIT:,g} MiB"
            points.append(Point("locations", N, operation, "memory", None, "MiB", 0, status=why))
            continue
        images: list[int] = []
        grown = memory_growth(lambda side=side, images=images: images.append(run(side)))
        if grown is None:
            raise ValueError("memory: this system does not say how much a call needs; use Linux")
        points.append(Point("locations", N, operation, "memory", grown / images[0], "MiB", 1))
        before = N, grown
    return points
