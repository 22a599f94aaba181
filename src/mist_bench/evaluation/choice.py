"""Scores of a prediction of the val split, by which a run's weights are chosen.

Shapes: N images, K detections, L instances, C channels or classes, H W image.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from mist_bench.config.schema import RunSpec
from mist_bench.evaluation.matching import IOU_THRESHOLD, Scene, greedy_matching
from mist_bench.run.batches import to_images
from mist_bench.types import Prediction

Arrays = Mapping[str, NDArray]


def validation_score(predictions: list[Prediction], val: Arrays, spec: RunSpec) -> float:
    """Return a score of the whole val split; higher is better.

    Reconstruction: the negative root mean square error. Classification: ``label_score``, which
    needs no boxes, or, where ``training.select`` is ``best_f1``, ``official_f1``, which does.
    """
    if spec.task.kind == "reconstruction":
        images = to_images(val["images"], torch.device("cpu")).numpy()
        errors = [
            (one.reconstruction.cpu().numpy() - image) ** 2
            for one, image in zip(predictions, images, strict=True)
        ]
        return -float(np.sqrt(np.mean(errors)))
    if spec.training.select == "best_f1":
        return official_f1(predictions, val, spec.task.background)
    return label_score(predictions, val, spec.task.num_classes, spec.task.background)


def label_score(
    predictions: list[Prediction], val: Arrays, num_classes: int, background: int | None
) -> float:
    """Return the fraction of instances whose label is predicted, as counts per image.

    Where there is a background, the F1 of that, since what is not background could be predicted at
    will.
    """
    hits, claims = 0, 0
    for one, labels, count in zip(predictions, val["labels"], val["counts"], strict=True):
        found = np.bincount(one.labels.cpu().numpy(), minlength=num_classes)
        hits += int(np.minimum(found, np.bincount(labels[:count], minlength=num_classes)).sum())
        claims += len(one.labels) - (0 if background is None else int(found[background]))
    instances = int(val["counts"].sum())
    if background is None:
        return hits / max(instances, 1)
    return 2 * hits / max(instances + claims, 1)


def official_f1(predictions: list[Prediction], val: Arrays, background: int | None) -> float:
    """Return the F1 that the official code validates with (mist_train.py:288; deviation B7).

    A detection is right if its label is and its IoU with a true box is at least 0.5, or, where
    there is a background, its center lies inside a true box; matched greedily. The official code
    scores at most 52 random batches every five minutes of wall time; this is the whole split.

    Args:
        predictions: of N images.
        val: ``counts``, ``labels`` and ``boxes`` of the split.
        background: class that is no object.
    """
    hits = claims = instances = 0
    for i, one in enumerate(predictions):
        count, labels = val["counts"][i], one.labels.cpu().numpy()
        kept = labels != background  # None is the label of nothing
        scene = Scene(
            one.boxes.cpu().numpy()[kept].astype(np.float64),
            one.scores.cpu().numpy()[kept],
            labels[kept],
            val["boxes"][i, :count].astype(np.float64),
            val["labels"][i, :count],
        )
        if background is None:
            right, quality = scene.iou >= IOU_THRESHOLD, scene.iou
        else:
            right, quality = scene.center_distance <= 1, -scene.center_distance
        hits += len(greedy_matching(right & scene.same_label, quality))
        claims += len(scene.boxes)
        instances += int(count)
    return 2 * hits / max(claims + instances, 1)
