"""Average precision by COCO's own evaluation code (Table 5)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mist_bench.evaluation.detection import num_instances
from mist_bench.evaluation.matching import IOU_THRESHOLD, Scene


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
    truths, detections, categories = [], [], set()
    for image, scene in enumerate(scenes):
        labels = scene.true_labels if class_aware else np.zeros(len(scene.true_boxes), np.int64)
        categories.update(labels.tolist())
        truths += _annotations(image, scene.true_boxes, labels, None)
        labels = scene.labels if class_aware else np.zeros(len(scene.boxes), np.int64)
        detections += _annotations(image, scene.boxes, labels, scene.scores)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints progress and timings
        evaluation = COCOeval(
            _index(truths, len(scenes), categories),
            _index(detections, len(scenes), categories),
            "bbox",
        )
        evaluation.params.iouThrs = np.array([IOU_THRESHOLD])
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def _annotations(
    image: int, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray | None
) -> list[dict[str, Any]]:
    """Return COCO records of one image; their box is the corner and the size."""
    boxes = np.asarray(boxes, np.float64)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    records = [
        {"image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]}
        for box, label in zip(corners.tolist(), labels.tolist(), strict=True)
    ]
    if scores is None:
        return [record | {"iscrowd": 0} for record in records]
    return [r | {"score": s} for r, s in zip(records, scores.tolist(), strict=True)]


def _index(records: list[dict[str, Any]], images: int, categories: set[int]) -> COCO:
    """Return COCO's index of ``records``, without a file."""
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in sorted(categories)],
        # ids start at 1: COCOeval reads 0 as "not matched"
        "annotations": [record | {"id": i} for i, record in enumerate(records, start=1)],
    }
    index.createIndex()
    return index
