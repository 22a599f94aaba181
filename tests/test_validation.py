"""What weights are chosen by, by hand."""

import numpy as np
import pytest
import torch

from mist_bench.config.schema import RunSpec, Training
from mist_bench.evaluation.choice import validation_score
from mist_bench.types import Prediction, TaskSpec


def prediction(boxes, labels):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Prediction(boxes, torch.arange(len(boxes), 0.0, -1), torch.tensor(labels).long())


def split(*images):
    """Return a split of images that each are a list of (label, box)."""
    most = max(map(len, images))
    labels, boxes = np.full((len(images), most), -1), np.zeros((len(images), most, 4), np.float32)
    for i, image in enumerate(images):
        for k, (label, box) in enumerate(image):
            labels[i, k], boxes[i, k] = label, box
    counts = np.array([len(image) for image in images])
    return {"images": np.zeros((len(images), 1, 4, 4)), "counts": counts} | {
        "labels": labels,
        "boxes": boxes,
    }


A, B = [10, 10, 20, 20], [40, 40, 20, 20]
NEAR = [15, 10, 20, 20]  # IoU with A of 15 / 25
FAR = [19, 10, 20, 20]  # IoU with A of 11 / 29, its center inside of A


def spec_of(select, background=None, kind="classification") -> RunSpec:
    every = dict.fromkeys(("validate_every", "checkpoint_every", "log_every"), 1)
    return RunSpec(
        **dict.fromkeys(("preset", "experiment", "method", "module", "dataset"), "made_up"),
        seed=0,
        task=TaskSpec(kind, (1, 4, 4), 2, 5, 20.0, background=background),
        params={},
        training=Training(steps=1, batch_size=1, select=select, **every),
    )


@pytest.mark.parametrize(
    ("found", "labels", "background", "by_labels", "official"),
    [
        ([NEAR, B], [3, 4], None, 1.0, 1.0),
        ([FAR, B], [3, 4], None, 1.0, 2 * 1 / 4),  # too little overlap
        ([FAR, B], [3, 4], 0, 1.0, 1.0),  # but its center is inside
        ([NEAR, B], [4, 3], None, 1.0, 0.0),  # each has the other's label
        ([NEAR, NEAR], [3, 3], None, 1 / 2, 2 * 1 / 4),  # one counts
        ([NEAR, B], [3, 0], 0, 2 * 1 / 3, 2 * 1 / 3),  # background is no detection
        ([NEAR, B], [3, 0], None, 1 / 2, 2 * 1 / 4),  # the digit 0 is one
        ([NEAR, B, B], [3, 4, 4], None, 1.0, 2 * 2 / 5),
        ([NEAR, B, B], [3, 4, 4], 0, 2 * 2 / 5, 2 * 2 / 5),  # more than there are
        ([], [], None, 0.0, 0.0),
    ],
)
def test_by_hand(found, labels, background, by_labels, official):
    val = split([(3, A), (4, B)])
    for select, expected in (("last", by_labels), ("best", by_labels), ("best_f1", official)):
        score = validation_score([prediction(found, labels)], val, spec_of(select, background))
        assert score == pytest.approx(expected), select


def test_labels_are_counted_in_each_image():
    val, found = split([(3, A)], [(4, A)]), [prediction([A], [4]), prediction([A], [3])]
    assert validation_score(found, val, spec_of("best")) == 0
    assert validation_score(found[::-1], val, spec_of("best")) == 1


def test_greedy_in_the_order_of_the_ground_truth():
    """The first takes the nearer detection, which the second needs."""
    val = split([(3, [10, 10, 20, 20]), (3, [16, 10, 20, 20])])
    found = [[11, 10, 20, 20], [5, 10, 20, 20]]  # of the second, only the first has IoU .5
    assert validation_score([prediction(found, [3, 3])], val, spec_of("best_f1")) == 2 * 1 / 4


@pytest.mark.parametrize("white", [np.uint8(255), np.float32(1)])
def test_a_reconstruction_is_scored_by_its_error(white):
    images = np.zeros((2, 1, 4, 4), white.dtype)
    images[0, 0, 0] = white
    black = Prediction(torch.zeros(0, 4), torch.zeros(0), reconstruction=torch.zeros(1, 4, 4))
    score = validation_score(
        [black, black], {"images": images}, spec_of("last", kind="reconstruction")
    )
    assert score == pytest.approx(-((4 / 32) ** 0.5))


def test_a_split_without_instances_scores_zero():
    val = split([], [])
    for select in ("best", "best_f1"):
        assert validation_score([prediction([], [])] * 2, val, spec_of(select)) == 0
