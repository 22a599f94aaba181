"""Where a patch may be background: what labels a method sees, and how it is scored on val."""

import numpy as np
import pytest
import torch

from mist_bench.run.batches import fill_labels, make_batch
from mist_bench.run.training import validation_score
from mist_bench.types import Prediction, TaskSpec

CPU = torch.device("cpu")
TASK = TaskSpec("classification", (1, 8, 8), 2, num_classes=4, box_size=4, background=0)
ARRAYS = {
    "images": np.zeros((3, 1, 8, 8), np.uint8),
    "counts": np.array([2, 1, 0]),
    "labels": np.array([[3, 1], [2, -1], [-1, -1]]),
    "boxes": np.zeros((3, 2, 4), np.float32),
}


def test_labels_are_filled_up_to_k():
    labels = torch.tensor([5, 7])
    assert fill_labels(labels, 4, 0).tolist() == [5, 7, 0, 0]
    assert fill_labels(labels, 1, 0).tolist() == [5, 7]
    assert fill_labels(labels[:0], 2, 9).tolist() == [9, 9]


def test_background_fills_labels_and_says_nothing_about_places():
    batch = make_batch(ARRAYS, np.arange(3), "labels", CPU, TASK)
    assert [one.tolist() for one in batch.labels] == [[1, 3], [0, 2], [0, 0]]
    assert batch.boxes is None


@pytest.mark.parametrize("supervision", ["labels", "boxes"])
def test_without_background_and_beside_boxes_labels_are_the_objects(supervision):
    task = None if supervision == "labels" else TASK
    batch = make_batch(ARRAYS, np.arange(3), supervision, CPU, task)
    assert [sorted(one.tolist()) for one in batch.labels] == [[1, 3], [2], []]


def found(*labels):
    count = len(labels)
    return Prediction(torch.zeros(count, 4), torch.zeros(count), torch.tensor(labels))


def test_with_a_background_the_score_is_an_f1(spy_spec):
    """Of 3 objects 2 are named; 4 names are no background: 2 * 2 / (3 + 4)."""
    spec = spy_spec().model_copy(update={"task": TASK})
    predictions = [found(3, 0), found(2, 2), found(1, 0)]
    assert validation_score(predictions, ARRAYS, spec) == pytest.approx(4 / 7)
    nothing = [found(0, 0)] * 3
    assert validation_score(nothing, ARRAYS, spec) == 0
