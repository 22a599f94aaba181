"""Average precision by COCO's own evaluation code (Table 5), and by its rule without boxes' sizes.

K detections and L ground-truth instances of one image; D detections of a test set.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mist_bench.evaluation.detection import num_instances
from mist_bench.evaluation.matching import IOU_THRESHOLD, Scene, greedy_matching


def ap50(scenes: Sequence[Scene], *, class_aware: bool) -> float:
    """Return COCO's average precision at IoU 0.5, ranked by score over the whole test set.

    The paper does not define the AP of Table 5; the official trainer logs another quantity,
    ``iou50_official``, under that name (``mist_train.py:282``).

    Args:
        scenes: the test set; for Table 5, each with no more detections than instances.
        class_aware: mean over the classes that occur, instead of one class for everything.

    Returns:
        A fraction in [0, 1]; 0 without detections.

    Raises:
        ValueError: if no image has an instance.
    """
    num_instances(scenes)
    max_detections = max(len(scene.boxes) for scene in scenes)
    if max_detections == 0:
        return 0.0
    # one class for everything: label 0
    truths = [
        (s.true_boxes, s.true_labels * class_aware, np.ones(len(s.true_boxes))) for s in scenes
    ]
    found = [(s.boxes, s.labels * class_aware, s.scores) for s in scenes]
    categories = np.unique(np.concatenate([labels for _, labels, _ in truths])).tolist()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints progress and timings
        evaluation = COCOeval(_index(truths, categories), _index(found, categories), "bbox")
        evaluation.params.iouThrs = np.array([IOU_THRESHOLD])
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def ap_center(scenes: Sequence[Scene]) -> float:
    """Return the mean average precision where a center inside the true box is right.

    Not in the paper, which calls a detection right by its center (Sec. 5.2) but ranks none. As
    ``ap50`` with classes in all but this: in the order of its score, a detection takes the true
    box of its class that its center lies inside, of several the one whose center is nearest in
    half box sizes; each box is taken once.

    Args:
        scenes: the test set.

    Returns:
        The mean over the classes that occur, a fraction in [0, 1]; 0 without detections.

    Raises:
        ValueError: if no image has an instance.
    """
    num_instances(scenes)
    classes = np.unique(np.concatenate([scene.true_labels for scene in scenes]))
    return float(np.mean([_center_precision(scenes, label) for label in classes]))


def _center_precision(scenes: Sequence[Scene], label: int) -> float:
    """Return the average precision of one class."""
    scores, right, instances = [], [], 0
    for scene in scenes:
        found, true = np.flatnonzero(scene.labels == label), scene.true_labels == label
        found = found[np.argsort(-scene.scores[found], kind="stable")]
        distance = scene.center_distance[found][:, true]
        pairs = greedy_matching((distance <= 1).T, -distance.T)  # (instance, detection)
        served = np.zeros(len(found), bool)
        served[[detection for _, detection in pairs]] = True
        scores.append(scene.scores[found])
        right.append(served)
        instances += int(true.sum())
    ranking = np.argsort(-np.concatenate(scores), kind="stable")
    return interpolated_precision(np.concatenate(right)[ranking], instances)


def interpolated_precision(right: NDArray, instances: int) -> float:
    """Return COCO's average precision: the mean over 101 recalls of the best precision from there.

    Args:
        right: (D,) bool, in the order of the scores.
        instances: number of ground truths, > 0.
    """
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(hits / instances, np.linspace(0, 1, 101))  # D where never reached
    return float(np.append(best, 0.0)[first].mean())


def _index(images: Sequence[tuple[NDArray, NDArray, NDArray]], categories: list[int]) -> COCO:
    """Return COCO's index of the boxes, labels and scores of each image, without a file."""
    annotations = []
    for image, (boxes, labels, scores) in enumerate(images):
        corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
        columns = (one.tolist() for one in (corners, labels, scores))
        annotations += [
            {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            | {"score": score, "iscrowd": 0}
            for box, label, score in zip(*columns, strict=True)
        ]
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in range(len(images))],
        "categories": [{"id": label} for label in categories],
        # ids start at 1: COCOeval reads 0 as "not matched"
        "annotations": [record | {"id": i} for i, record in enumerate(annotations, start=1)],
    }
    index.createIndex()
    return index
