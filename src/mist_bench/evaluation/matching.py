"""Which detection serves which ground truth: one-to-one matching and the official greedy one.

K detections and L ground-truth instances of one image; C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from mist_bench.boxes import box_iou

IOU_THRESHOLD = 0.5  # "over 50%" (Sec. 5.2); the name of every metric here contains it
CENTER_TOLERANCE = 1 / 8  # of the true box's side, as the width of the paper's G (Sec. B)
Arrays = Mapping[str, NDArray]
Pairs = tuple[NDArray, NDArray]  # indices of matched detections and of their ground truths


@dataclass(frozen=True)
class Scene:
    """Detections and ground truth of one image.

    Attributes:
        boxes: (K, 4) cxcywh, pixels.
        scores: (K,), higher is more certain.
        labels: (K,) int64, -1 where a task has none.
        true_boxes: (L, 4) cxcywh, pixels.
        true_labels: (L,) int64, -1 where a task has none.
    """

    boxes: NDArray
    scores: NDArray
    labels: NDArray
    true_boxes: NDArray
    true_labels: NDArray

    @cached_property
    def iou(self) -> NDArray:
        """(K, L) overlap of every detection with every ground truth, in [0, 1]."""
        return box_iou(self.boxes, self.true_boxes)

    @cached_property
    def same_label(self) -> NDArray:
        """(K, L) whether the labels agree."""
        return self.labels[:, None] == self.true_labels[None]

    @cached_property
    def center_distance(self) -> NDArray:
        """(K, L) largest offset of the centers in half box sizes; <= 1 is inside (Sec. 5.2)."""
        offset = np.abs(self.boxes[:, None, :2] - self.true_boxes[None, :, :2])
        half = np.maximum(self.true_boxes[None, :, 2:] / 2, np.finfo(np.float32).tiny)
        return (offset / half).max(-1)

    def best(self, count: int) -> Self:
        """Return the scene with only the ``count`` detections of highest score, in their order."""
        if len(self.scores) <= count:
            return self
        return self.only(np.sort(np.argsort(-self.scores, kind="stable")[:count]))

    def only(self, kept: NDArray, true: NDArray | slice = slice(None)) -> Self:
        """Return the scene with the detections ``kept`` and the ground truths ``true``."""
        found = {name: getattr(self, name)[kept] for name in ("boxes", "scores", "labels")}
        truth = {name: getattr(self, name)[true] for name in ("true_boxes", "true_labels")}
        return replace(self, **found, **truth)


def stored_scene(predictions: Arrays, truth: Arrays, i: int) -> Scene:
    """Return image ``i`` of stored predictions (``run/prediction.py``) and of its split."""
    found = predictions["counts"][i]
    boxes, scores = (predictions[name][i, :found] for name in ("boxes", "scores"))
    labels = predictions["labels"][i, :found] if "labels" in predictions else np.full(found, -1)
    return scene_of(boxes, scores, labels, truth, i)


def scene_of(
    boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike, truth: Arrays, i: int
) -> Scene:
    """Return detections of image ``i`` of a split beside its ground truth."""
    boxes, true_boxes = (np.asarray(b).astype(np.float64) for b in (boxes, truth["boxes"][i]))
    scores, labels, n = np.asarray(scores), np.asarray(labels), truth["counts"][i]
    return Scene(boxes, scores, labels, true_boxes[:n], truth["labels"][i, :n])


def maximum_matching(allowed: NDArray, quality: NDArray) -> Pairs:
    """Return the one-to-one matching with the most pairs, and the best quality among those.

    Not in the paper: the official evaluation is greedy (``utils/torch_utils.py:82-93``).

    Args:
        allowed: (K, L) bool, pairs that may be matched.
        quality: (K, L) in [0, 1], decides between matchings of equal size.

    Returns:
        Indices of the matched detections and of their ground truths, both (M,).
    """
    if not allowed.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # one more pair must outweigh any sum of qualities
    weight = np.where(allowed, min(allowed.shape) + 1 + quality, 0.0)
    rows, columns = linear_sum_assignment(weight, maximize=True)
    kept = allowed[rows, columns]
    return rows[kept], columns[kept]


def match_boxes(scene: Scene) -> Pairs:
    """Return the largest one-to-one matching with IoU >= 0.5, labels ignored."""
    return maximum_matching(scene.iou >= IOU_THRESHOLD, scene.iou)


def match_labeled_boxes(scene: Scene) -> Pairs:
    """Return the largest one-to-one matching with IoU >= 0.5 and equal labels."""
    return maximum_matching((scene.iou >= IOU_THRESHOLD) & scene.same_label, scene.iou)


def match_labeled_centers(scene: Scene) -> Pairs:
    """Return the largest one-to-one matching of equal labels, center inside the true box."""
    inside = scene.center_distance <= 1
    return maximum_matching(inside & scene.same_label, 1 - np.minimum(scene.center_distance, 1))


def match_centers(scene: Scene) -> Pairs:
    """Return the largest one-to-one matching of centers within the tolerance, labels ignored.

    Not in the paper, which shows right and wrong impulses (Figure 4) without saying when one is
    right: the Euclidean distance of the centers is at most ``CENTER_TOLERANCE`` times the square
    root of the true box's area.
    """
    offset = scene.boxes[:, None, :2] - scene.true_boxes[None, :, :2]  # (K, L, 2)
    distance = np.hypot(offset[..., 0], offset[..., 1])
    tolerance = CENTER_TOLERANCE * np.sqrt(scene.true_boxes[:, 2] * scene.true_boxes[:, 3])
    allowed = distance <= tolerance
    return maximum_matching(allowed, np.where(allowed, 1 - distance / tolerance.clip(1e-9), 0))


def greedy_matching(allowed: NDArray, quality: NDArray) -> list[tuple[int, int]]:
    """Return the official matching: each ground truth in its order takes the best free detection.

    Not in the paper: official code ``utils/torch_utils.py:82-110``. Only the chosen detection is
    removed, so an early ground truth can take what a later one needs.

    Args:
        allowed: (K, L) bool, pairs that may be matched.
        quality: (K, L), higher is better.

    Returns:
        Pairs (detection, ground truth).
    """
    free = np.ones(len(allowed), bool)
    pairs = []
    for truth in range(allowed.shape[1]):
        candidates = np.flatnonzero(allowed[:, truth] & free)
        if len(candidates):
            chosen = candidates[np.argmax(quality[candidates, truth])]
            free[chosen] = False
            pairs.append((int(chosen), truth))
    return pairs


def right_detections(scene: Scene, match: Callable[[Scene], Pairs]) -> NDArray:
    """Return (K,) bool: detections that ``match`` pairs with a ground truth."""
    right = np.zeros(len(scene.boxes), bool)
    right[match(scene)[0]] = True
    return right
