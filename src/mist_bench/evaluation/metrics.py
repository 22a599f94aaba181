"""From stored predictions to metrics.json, without torch.

N images, Kmax detections at most in one, Lmax instances at most in one, C channels or classes.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_bench.config.schema import RunSpec
from mist_bench.datasets.files import load_manifest, load_split, read_npz
from mist_bench.evaluation.coco import ap50, ap_center
from mist_bench.evaluation.detection import (
    class_metrics,
    label_metrics,
    location_metrics,
    num_instances,
    without_background,
)
from mist_bench.evaluation.matching import Arrays, Scene, stored_scene
from mist_bench.evaluation.reconstruction import rmse_metrics
from mist_bench.types import TaskSpec

ORIGIN = ("weights_sha256", "split")  # what predictions are made of; earlier versions store neither


def evaluate(
    spec: RunSpec, data: Path, predictions: Path, out: Path, split: str = "test"
) -> dict[str, Any]:
    """Write the metrics of one run's stored predictions to ``out`` and return them.

    Args:
        spec: the run.
        data: folder of the dataset.
        predictions: predictions.npz of the run.
        out: the metrics.json to write; it appears whole or not at all.
        split: the one that was predicted.

    Returns:
        What was written: the run's names, ``status``, ``images``, ``instances``, ``metrics``, and
        the ``ORIGIN`` of the predictions where they store it.

    Raises:
        ValueError: in one line, if the predictions are of another split or do not fit this one.
    """
    if "cells" in load_manifest(data):
        raise ValueError(f"{data}: features, in whose cells no box is judged: give the images'")
    truth = load_split(data, split)
    arrays = load_predictions(predictions)
    origin = {name: str(arrays[name]) for name in ORIGIN if name in arrays}
    if origin.get("split", split) != split:
        raise ValueError(f"{predictions}: of the split {origin['split']}; predict {split} first")
    try:
        metrics = compute(spec.task, truth, arrays)
    except ValueError as error:
        raise ValueError(f"{predictions}: {error}") from None
    result = {
        "preset": spec.preset,
        "experiment": spec.experiment,
        "method": spec.method,
        "seed": spec.seed,
        "status": "ok",
        **origin,
        "images": len(truth["images"]),
        "instances": int(truth["counts"].sum()),
        "metrics": metrics,
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(out)
    return result


def compute(task: TaskSpec, truth: Arrays, predictions: Arrays) -> dict[str, float | None]:
    """Return every metric of ``task`` by name.

    Detections and ground truths of the class ``task.background`` are left out first. A task that
    has one gets metrics of each class on top, and its average precision is that of all detections,
    because there the method says how many there are; but not where their number is told at test.

    Args:
        task: the kind of task, the number of classes and the background.
        truth: ``images``, ``counts``, ``labels``, ``boxes`` of the test split.
        predictions: ``counts``, ``boxes``, ``scores``, ``labels``, and ``reconstructions`` where
            the task is reconstruction.

    Raises:
        ValueError: for arrays of the wrong shape or with impossible values.
    """
    scenes = make_scenes(task, truth, predictions)
    # "test with ground-truth K" (Sec. 5.3): L detections of an image with L instances
    ranked = scenes
    if task.background is None or task.num_detections is not None:
        ranked = [scene.best(len(scene.true_boxes)) for scene in scenes]
    metrics: dict[str, float | None] = {}
    if task.kind == "reconstruction":
        if "reconstructions" not in predictions:
            raise ValueError("array 'reconstructions' is missing")
        check_finite("reconstructions", predictions["reconstructions"])
        metrics |= rmse_metrics(truth["images"], predictions["reconstructions"])
    if task.kind == "classification" or truth["counts"].sum() > 0:
        num_instances(scenes)
        metrics |= location_metrics(scenes)
        metrics["ap50_agnostic"] = ap50(ranked, class_aware=False)
    if task.kind == "classification":
        metrics |= label_metrics(scenes)
        metrics["ap50"] = ap50(ranked, class_aware=True)
    if task.kind == "classification" and task.background is not None:
        metrics["ap_center"] = ap_center(ranked)
        metrics |= class_metrics(scenes, task.num_classes, task.background)
    return metrics


def load_predictions(path: Path) -> Arrays:
    """Return the arrays of predictions.npz.

    Raises:
        ValueError: in one line, if the file is damaged.
    """
    try:
        return read_npz(path)
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it and run again") from None


def make_scenes(task: TaskSpec, truth: Arrays, predictions: Arrays) -> list[Scene]:
    """Return one scene per image, without the background, from checked padded arrays."""
    if task.kind == "reconstruction" and "scores" in predictions:  # which has no labels
        predictions = {"labels": np.full(predictions["scores"].shape, -1), **predictions}
    check_shapes(len(truth["images"]), predictions)
    check_values(task, predictions)
    scenes = (stored_scene(predictions, truth, i) for i in range(len(truth["images"])))
    return [without_background(scene, task.background) for scene in scenes]


def check_shapes(images: int, predictions: Arrays) -> None:
    """Raise a ``ValueError`` for missing arrays, or shapes that do not fit ``images`` images."""
    for name in ("counts", "boxes", "scores", "labels"):
        if name not in predictions:
            raise ValueError(f"array {name!r} is missing")
    most = (predictions["scores"].shape or (0,))[-1]
    shapes = {"counts": (images,), "scores": (images, most)}
    shapes |= {"boxes": (images, most, 4), "labels": (images, most)}
    for name, shape in shapes.items():
        if predictions[name].shape != shape:
            raise ValueError(f"{name} must be {shape}, got {predictions[name].shape}")


def check_values(task: TaskSpec, predictions: Arrays) -> None:
    """Raise a ``ValueError`` for values that no method of this task can mean."""
    counts, scores = predictions["counts"], predictions["scores"]
    most = scores.shape[1]
    if len(counts) and not (counts.min() >= 0 and counts.max() <= most):
        raise ValueError(f"counts must be in 0..{most}, got {counts.min()}..{counts.max()}")
    used = np.arange(most) < counts[:, None]  # (N, Kmax)
    check_finite("boxes", predictions["boxes"][used])
    check_finite("scores", scores[used])
    if (predictions["boxes"][used][:, 2:] < 0).any():
        raise ValueError("boxes must have sizes >= 0")
    labels = predictions["labels"][used]
    if task.kind == "classification" and len(labels):
        lowest, highest = labels.min(), labels.max()
        if lowest < 0 or highest >= task.num_classes:
            raise ValueError(f"labels must be in 0..{task.num_classes - 1}: {lowest}..{highest}")


def check_finite(name: str, values: NDArray) -> None:
    """Raise a ``ValueError`` if any of ``values`` is not a finite number."""
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, {bad} of {values.size} values are not")
