"""Detection and classification metrics of a test set, official and corrected.

Every fraction of ground truth is recall-style, as in the official code: its denominator is the
number of instances N of the whole test set. Surplus detections would raise such a fraction for
free, so an image with L instances is judged by its L best-scored detections ("test with
ground-truth K", Sec. 5.3); with K = L, as on MNIST-hard, this changes nothing. Precision and
the recall that goes with it, ``*_precision``, ``*_f1`` and the diagnostics use all detections.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from mist_bench.evaluation.matching import (
    IOU_THRESHOLD,
    Pairs,
    Scene,
    greedy_matching,
    match_boxes,
    match_centers,
    match_labeled_boxes,
    match_labeled_centers,
)

Scenes = Sequence[Scene]
Hits = Callable[[Scene], int]  # of one image


def num_instances(scenes: Scenes) -> int:
    """Return N, the number of ground-truth instances.

    Raises:
        ValueError: if there is none, because no fraction of them is defined.
    """
    count = sum(len(scene.true_boxes) for scene in scenes)
    if count == 0:
        raise ValueError("no ground-truth instance in any image: the metrics are undefined")
    return count


def hits_of(match: Callable[[Scene], Pairs]) -> Hits:
    """Return how many instances a one-to-one matching serves, as a function of the scene."""
    return lambda scene: len(match(scene)[0])


overlaps = hits_of(match_boxes)
box_hits = hits_of(match_labeled_boxes)
center_hits = hits_of(match_labeled_centers)


def greedy_box_hits(scene: Scene) -> int:
    """Return ``box_hits`` by the official matching (official code ``utils/torch_utils.py:82-93``).

    It prints an F1 of them, equal to their fraction where K = L.
    """
    return len(greedy_matching((scene.iou >= IOU_THRESHOLD) & scene.same_label, scene.iou))


def greedy_center_hits(scene: Scene) -> int:
    """Return ``center_hits`` by the official matching, by the smallest normalized distance.

    Official code ``utils/torch_utils.py:64-110``.
    """
    distance = scene.center_distance
    return len(greedy_matching((distance <= 1) & scene.same_label, -distance))


def label_hits(scene: Scene) -> int:
    """Return how many instances have a detection of their class, wherever it is.

    That is, L - sum_c max(n_true,c - n_detected,c, 0).
    """
    return (Counter(scene.true_labels.tolist()) & Counter(scene.labels.tolist())).total()


def label_hits_official(scene: Scene) -> int:
    """Return ``label_hits`` as officially computed: no instance of class 0 is ever missing.

    Class 0 is the digit 0 on MNIST, not a background (official code
    ``utils/torch_utils.py:127-129``); its instances stay in the denominator.
    """
    missing = Counter(scene.true_labels.tolist()) - Counter(scene.labels.tolist())
    return len(scene.true_labels) - missing.total() + missing[0]


def overlaps_official(scene: Scene) -> int:
    """Return how many instances some detection overlaps with IoU > 0.5.

    Not one-to-one: a detection may serve two ground truths (official code
    ``utils/torch_utils.py:56``).
    """
    return int((scene.iou > IOU_THRESHOLD).any(0).sum())


def fraction(scenes: Scenes, hits: Hits) -> float:
    """Return the fraction of all instances that are hits: with as many detections as instances."""
    ranked = (scene.best(len(scene.true_boxes)) for scene in scenes)
    return sum(map(hits, ranked)) / num_instances(scenes)


def precision_recall_f1(scenes: Scenes, hits: Hits) -> tuple[float, float, float]:
    """Return precision, recall and F1 of all detections, of which some are hits."""
    detections = sum(len(scene.boxes) for scene in scenes)
    instances = sum(len(scene.true_boxes) for scene in scenes)
    return ratios(sum(map(hits, scenes)), detections, instances)


def by_name(scenes: Scenes, hits: Hits, pattern: str = "{}") -> dict[str, float]:
    """Return precision, recall and F1 by name; ``{}`` stands in ``pattern`` for which one."""
    names = (pattern.format(one) for one in ("precision", "recall", "f1"))
    return dict(zip(names, precision_recall_f1(scenes, hits), strict=True))


def ratios(hits: int, detections: int, instances: int) -> tuple[float, float, float]:
    """Return precision, recall and F1; a ratio without a denominator is 0."""
    precision = hits / detections if detections else 0.0
    recall = hits / instances if instances else 0.0
    f1 = 2 * hits / (detections + instances) if hits else 0.0
    return precision, recall, f1


def without_background(scene: Scene, background: int | None) -> Scene:
    """Return the scene without the detections and ground truths of the class ``background``.

    It means "no object" (Sec. 5.2; official code ``utils/torch_utils.py:64-110``); with ``None``,
    every class is an object.
    """
    if background is None:
        return scene
    return scene.only(scene.labels != background, scene.true_labels != background)


def location_metrics(scenes: Scenes) -> dict[str, float | None]:
    """Return every metric that needs no labels, by name (``iou50``, centers, diagnostics).

    ``center_precision``, ``center_recall`` and ``center_f1`` count the pairs of ``match_centers``:
    centers within an eighth of the true box's side. Where K exceeds an image's instances, the
    precision cannot be 1, and where it is less, the recall cannot.

    Diagnostics (not in the paper): ``center_error`` is the mean distance in pixels between the
    centers of the pairs that ``iou50`` matches, ``None`` without a pair; ``duplicate_rate`` the
    fraction of detections that overlap a ground truth with IoU >= 0.5 but are left over by a
    one-to-one matching; ``miss_rate`` the fraction of ground truths whose box contains no
    detection's center; ``detections_per_instance`` the ratio of their numbers; ``count_accuracy``
    the fraction of images with as many detections as ground truths.
    """
    errors, surplus, misses, detections = [], 0, 0, 0
    for scene in scenes:
        rows, columns = match_boxes(scene)
        offset = scene.boxes[rows, :2] - scene.true_boxes[columns, :2]
        errors.append(np.hypot(offset[:, 0], offset[:, 1]))
        surplus += int((scene.iou >= IOU_THRESHOLD).any(1).sum()) - len(rows)
        misses += int((scene.center_distance > 1).all(0).sum())
        detections += len(scene.boxes)
    instances, distances = num_instances(scenes), np.concatenate(errors)
    return {
        "iou50": fraction(scenes, overlaps),
        "iou50_official": fraction(scenes, overlaps_official),
        **by_name(scenes, hits_of(match_centers), "center_{}"),
        "center_error": float(distances.mean()) if len(distances) else None,
        "duplicate_rate": surplus / detections if detections else 0.0,
        "miss_rate": misses / instances,
        "detections_per_instance": detections / instances,
        "count_accuracy": sum(len(s.boxes) == len(s.true_boxes) for s in scenes) / len(scenes),
    }


def label_metrics(scenes: Scenes) -> dict[str, float]:
    """Return every metric that needs labels, by name: of Table 2, then of Table 4."""
    both_precision, _, both_f1 = precision_recall_f1(scenes, box_hits)
    return {
        "classification": fraction(scenes, label_hits),
        "classification_official": fraction(scenes, label_hits_official),
        "both": fraction(scenes, box_hits),
        "both_official": fraction(scenes, greedy_box_hits),
        "both_precision": both_precision,
        "both_f1": both_f1,
        **by_name(scenes, center_hits),
        **by_name(scenes, greedy_center_hits, "{}_official"),
    }


def class_metrics(scenes: Scenes, num_classes: int, background: int) -> dict[str, float | None]:
    """Return the scores of Table 4 for each class but ``background``, by name.

    Not in the paper. ``precision_class01``, ``recall_class01`` and ``f1_class01`` are
    those of class 1 alone, ``None`` without what they are a fraction of;
    ``instances_class01`` is its number of ground truths.
    """
    hits, detections, instances = np.zeros((3, num_classes), np.int64)
    for scene in scenes:
        rows, _ = match_labeled_centers(scene)
        hits += np.bincount(scene.labels[rows], minlength=num_classes)
        detections += np.bincount(scene.labels, minlength=num_classes)
        instances += np.bincount(scene.true_labels, minlength=num_classes)
    metrics: dict[str, float | None] = {}
    for label in (one for one in range(num_classes) if one != background):
        found, true = int(detections[label]), int(instances[label])
        precision, recall, f1 = ratios(int(hits[label]), found, true)
        metrics |= {
            f"precision_class{label:02d}": precision if found else None,
            f"recall_class{label:02d}": recall if true else None,
            f"f1_class{label:02d}": f1 if found + true else None,
            f"instances_class{label:02d}": float(true),
        }
    return metrics
