"""What weights are chosen by: the official code's F1, by hand and by the evaluation's own words."""

import numpy as np
import pytest
import torch

from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.evaluation.choice import official_f1, validation_score
from mist_bench.evaluation.detection import center_scores, without_background
from mist_bench.evaluation.matching import Scene
from mist_bench.types import Prediction


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


@pytest.mark.parametrize(
    ("found", "labels", "background", "expected"),
    [
        ([NEAR, B], [3, 4], None, 1.0),
        ([FAR, B], [3, 4], None, 2 * 1 / 4),  # too little overlap
        ([FAR, B], [3, 4], 0, 1.0),  # but its center is inside
        ([NEAR, B], [4, 3], None, 0.0),  # each has the other's label
        ([NEAR, NEAR], [3, 3], None, 2 * 1 / 4),  # one counts
        ([NEAR, B], [3, 0], 0, 2 * 1 / 3),  # background is no detection
        ([NEAR, B], [3, 0], None, 2 * 1 / 4),  # the digit 0 is one
        ([NEAR, B, B], [3, 4, 4], None, 2 * 2 / 5),
        ([], [], None, 0.0),
    ],
)
def test_by_hand(found, labels, background, expected):
    val = split([(3, A), (4, B)])
    assert official_f1([prediction(found, labels)], val, background) == pytest.approx(expected)


def test_greedy_in_the_order_of_the_ground_truth():
    """The first takes the nearer detection, which the second needs."""
    val = split([(3, [10, 10, 20, 20]), (3, [16, 10, 20, 20])])
    found = [[11, 10, 20, 20], [5, 10, 20, 20]]  # of the second, only the first has IoU .5
    assert official_f1([prediction(found, [3, 3])], val, None) == 2 * 1 / 4


def test_the_evaluation_says_the_same():
    rng = np.random.default_rng(0)
    images = [
        [(int(rng.integers(1, 3)), rng.uniform(15, 40, 4)) for _ in range(rng.integers(0, 3))]
        for _ in range(40)
    ]
    val = split(*images, [(1, A)])
    predictions = [
        prediction(rng.uniform(15, 40, (2, 4)), rng.integers(0, 3, 2)) for _ in range(41)
    ]
    scenes = [
        without_background(
            Scene(one.boxes.numpy(), one.scores.numpy(), one.labels.numpy(), boxes[:n], labels[:n]),
            0,
        )
        for one, n, labels, boxes in zip(
            predictions, val["counts"], val["labels"], val["boxes"], strict=True
        )
    ]
    expected = center_scores(scenes, official=True)[2]
    assert 0.1 < expected < 0.9
    assert official_f1(predictions, val, 0) == pytest.approx(expected)


def test_only_where_it_is_asked_for():
    val, found = split([(3, A), (4, B)]), [prediction([FAR, B], [3, 4])]
    spec = settings.run_spec(
        settings.load(targets.SETTINGS, {"preset": "smoke"}), "mnist_hard_classification", "mist", 0
    )
    scores = {
        select: validation_score(
            found,
            val,
            spec.model_copy(
                update={"training": spec.training.model_copy(update={"select": select})}
            ),
        )
        for select in ("last", "best", "best_f1")
    }
    assert scores == {"last": 1, "best": 1, "best_f1": 0.5}
