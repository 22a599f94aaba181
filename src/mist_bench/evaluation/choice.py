"""Scores of a prediction of the val split, by which a run's weights are chosen.

Shapes: N images, C channels, H W image.
"""

from collections.abc import Sequence

import numpy as np

from mist_bench.config.schema import RunSpec
from mist_bench.evaluation.detection import (
    greedy_box_hits,
    greedy_center_hits,
    label_hits,
    precision_recall_f1,
    without_background,
)
from mist_bench.evaluation.matching import Arrays, scene_of
from mist_bench.types import Prediction


def validation_score(predictions: Sequence[Prediction], val: Arrays, spec: RunSpec) -> float:
    """Return a score of the whole val split; higher is better.

    Reconstruction: the negative root mean square error, in single precision as the loss.
    Classification: how many instances have a detection of their class, wherever it is, which needs
    no boxes. Where ``training.select`` is ``best_f1``, the F1 that the official code validates with
    (mist_train.py:288; deviation B7), by IoU or, where there is a background, by centers. (It
    scores at most 52 random batches every five minutes of wall time; this is the whole split.)

    Where there is a background, the score without boxes is an F1, too, since what is not background
    could be predicted at will.

    Args:
        predictions: of the N images, on the CPU.
        val: ``images``, ``counts``, ``labels`` and ``boxes`` of the split.
        spec: of the run.
    """
    if spec.task.kind == "reconstruction":
        images = val["images"].astype(np.float32)
        images = images / np.float32(255) if val["images"].dtype == np.uint8 else images
        found = [np.asarray(one.reconstruction) for one in predictions]
        errors = [(one - image) ** 2 for one, image in zip(found, images, strict=True)]
        return -float(np.sqrt(np.mean(errors)))
    background = spec.task.background
    found = (scene_of(p.boxes, p.scores, p.labels, val, i) for i, p in enumerate(predictions))
    scenes = [without_background(scene, background) for scene in found]
    if spec.training.select == "best_f1":
        hits = greedy_box_hits if background is None else greedy_center_hits
        return precision_recall_f1(scenes, hits)[2]
    _, recall, f1 = precision_recall_f1(scenes, label_hits)
    return recall if background is None else f1
