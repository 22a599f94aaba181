import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import box_iou as torchvision_iou

from mist_bench.boxes import cxcywh_to_xyxy
from mist_bench.evaluation.matching import (
    Scene,
    greedy_matching,
    match_boxes,
    match_centers,
    match_labeled_boxes,
    match_labeled_centers,
    maximum_matching,
    right_detections,
)


def scene(boxes, labels, true_boxes, true_labels, scores=None) -> Scene:
    """A scene from lists of (x, y, w, h) and labels."""
    scores = np.arange(len(boxes), 0, -1) / 10 if scores is None else np.array(scores)
    return Scene(
        np.array(boxes, float).reshape(-1, 4),
        scores,
        np.array(labels, np.int64),
        np.array(true_boxes, float).reshape(-1, 4),
        np.array(true_labels, np.int64),
    )


def square(x, y=10):
    return (x, y, 20, 20)


def test_iou_of_hand_made_boxes():
    one = scene([square(10), square(20)], [0, 0], [square(10), (10, 10, 10, 20)], [0, 0])
    # 20 px squares 10 px apart share 200 of 600; a half box inside shares 200 of 400
    assert one.iou == pytest.approx(np.array([[1, 1 / 2], [1 / 3, 0.2]]))


def test_iou_agrees_with_torchvision():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 80, (9, 2)), rng.uniform(1, 30, (9, 2))], axis=1)
    one = scene(boxes[:5], [0] * 5, boxes[5:], [0] * 4)
    corners = torch.from_numpy(cxcywh_to_xyxy(boxes))
    np.testing.assert_allclose(one.iou, torchvision_iou(corners[:5], corners[5:]), atol=1e-12)


def test_center_distance_is_in_half_boxes():
    one = scene([(15, 10, 20, 20)], [0], [(10, 10, 20, 40), (10, 30, 10, 40)], [0, 0])
    # 5 of 10 px in x; then 5 of 5 in x and 20 of 20 in y: on the corner, hence inside
    np.testing.assert_allclose(one.center_distance, [[0.5, 1.0]])


def test_best_keeps_the_highest_scores_in_their_order():
    one = scene([square(1), square(2), square(3)], [1, 2, 3], [], [], scores=[0.2, 0.9, 0.5])
    assert one.best(2).labels.tolist() == [2, 3]
    assert one.best(3) is one
    assert one.best(0).labels.tolist() == []


def test_maximum_matching_prefers_more_pairs_to_better_ones():
    allowed = np.array([[True, True], [True, False]])
    quality = np.array([[1.0, 0.5], [0.5, 0.0]])
    rows, columns = maximum_matching(allowed, quality)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_maximum_matching_prefers_quality_among_equal_sizes():
    rows, columns = maximum_matching(np.ones((2, 1), bool), np.array([[0.6], [0.7]]))
    assert (rows.tolist(), columns.tolist()) == ([1], [0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_maximum_matching_of_nothing_is_empty(shape):
    rows, columns = maximum_matching(np.ones(shape, bool), np.ones(shape))
    assert len(rows) == len(columns) == 0


def test_greedy_matching_lets_an_early_truth_take_what_a_later_one_needs():
    # truth 0 likes detection 0 best, which is the only one truth 1 may have
    allowed = np.array([[True, True], [True, False]])
    assert greedy_matching(allowed, np.array([[0.9, 0.6], [0.8, 0.0]])) == [(0, 0)]
    assert len(maximum_matching(allowed, np.zeros((2, 2)))[0]) == 2


def test_greedy_matching_removes_only_the_chosen_detection():
    allowed = np.ones((2, 2), bool)
    assert greedy_matching(allowed, np.array([[0.9, 0.9], [0.8, 0.8]])) == [(0, 0), (1, 1)]


def test_an_iou_of_exactly_one_half_matches():
    one = scene([(10, 10, 10, 20)], [3], [square(10)], [3])
    assert one.iou[0, 0] == 0.5
    assert len(match_boxes(one)[0]) == 1
    assert len(match_labeled_boxes(one)[0]) == 1


def test_center_matching_needs_the_label_and_the_center_inside():
    truth = [square(10)]
    assert len(match_labeled_centers(scene([(20, 20, 2, 2)], [1], truth, [1]))[0]) == 1
    assert len(match_labeled_centers(scene([(20.1, 20, 2, 2)], [1], truth, [1]))[0]) == 0
    assert len(match_labeled_centers(scene([(10, 10, 2, 2)], [2], truth, [1]))[0]) == 0


@pytest.mark.parametrize(
    ("center", "size", "pairs"),
    [
        ((10, 10), 16, 1),
        ((12, 10), 16, 1),  # exactly an eighth of 16 px away
        ((12.01, 10), 16, 0),
        ((11.5, 11.5), 16, 0),  # 2.12 px away, although neither axis is
        ((12.5, 10), (8, 50), 1),  # 2.5 px is an eighth of 20, the root of the area
        ((12.6, 10), (8, 50), 0),
    ],
)
def test_centers_match_within_an_eighth_of_the_true_side(center, size, pairs):
    true_box = (10, 10, size, size) if isinstance(size, int) else (10, 10, *size)
    # neither the label nor the size of the detection matters
    one = scene([(*center, 3, 90)], [1], [true_box], [2])
    assert len(match_centers(one)[0]) == pairs


def test_centers_match_one_to_one_and_the_nearest_first():
    truth = [(10, 10, 16, 16), (13, 10, 16, 16), (50, 50, 16, 16)]
    # between the first two; nearer to the first; a duplicate; nothing near the third
    found = [(11.6, 10, 16, 16), (9, 10, 16, 16), (10, 10.5, 16, 16)]
    rows, columns = match_centers(scene(found, [0] * 3, truth, [0] * 3))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (2, 0)]


@pytest.mark.parametrize(("k", "n"), [(0, 2), (2, 0), (0, 0)])
def test_centers_match_nothing_without_detections_or_truth(k, n):
    one = scene([square(10)] * k, [0] * k, [square(10)] * n, [0] * n)
    assert [len(part) for part in match_centers(one)] == [0, 0]


def test_right_detections_by_hand():
    one = scene(
        [square(10), square(11), square(50), square(90)],
        [4, 4, 7, 5],
        [square(10), square(50), square(92)],
        [4, 8, 5],
    )
    # right; second on the same digit; wrong label; 2 px off but IoU 18/22
    assert right_detections(one, match_labeled_boxes).tolist() == [True, False, False, True]


def test_right_detections_without_detections():
    assert right_detections(scene([], [], [square(10)], [1]), match_labeled_boxes).tolist() == []


overlaps = arrays(np.bool_, st.tuples(st.integers(1, 5), st.integers(1, 5)))


@given(overlaps)
@settings(max_examples=50, deadline=None)
def test_greedy_never_beats_maximum_and_finds_at_least_half(allowed):
    greedy = len(greedy_matching(allowed, np.zeros(allowed.shape)))
    most = len(maximum_matching(allowed, np.zeros(allowed.shape))[0])
    assert greedy <= most <= 2 * greedy


@given(overlaps)
@settings(max_examples=50, deadline=None)
def test_a_matching_is_one_to_one_and_allowed(allowed):
    rows, columns = maximum_matching(allowed, np.zeros(allowed.shape))
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows)
    assert allowed[rows, columns].all()
