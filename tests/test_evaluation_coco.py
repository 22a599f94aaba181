import numpy as np
import pytest
from test_evaluation_matching import scene, square

from mist_bench.evaluation.coco import ap50


def test_perfect_detections_have_an_ap_of_one():
    one = [scene([square(10), square(50)], [0, 1], [square(10), square(50)], [0, 1])]
    assert ap50(one, class_aware=True) == pytest.approx(1.0)


def test_half_the_truths_found_is_51_of_101_recall_levels():
    one = [scene([square(10)], [0], [square(10), square(50)], [0, 0])]
    assert ap50(one, class_aware=True) == pytest.approx(51 / 101)


@pytest.mark.parametrize(("scores", "expected"), [([0.9, 0.1], 0.5), ([0.1, 0.9], 1.0)])
def test_ranking_is_by_score_over_the_whole_set(scores, expected):
    # a false detection on the first image, a true one on the second
    images = [
        scene([square(90)], [0], [], [], scores=scores[:1]),
        scene([square(10)], [0], [square(10)], [0], scores=scores[1:]),
    ]
    assert ap50(images, class_aware=False) == pytest.approx(expected)


def test_wrong_labels_count_only_with_classes():
    one = [scene([square(10), square(50)], [0, 0], [square(10), square(50)], [0, 1])]
    # class 0: true then false in rank order, AP 1; class 1: nothing found
    assert ap50(one, class_aware=True) == pytest.approx(0.5)
    assert ap50(one, class_aware=False) == 1.0


def test_an_iou_of_exactly_one_half_counts():
    assert ap50(
        [scene([(10, 10, 10, 20)], [0], [square(10)], [0])], class_aware=True
    ) == pytest.approx(1.0)


def test_every_detection_is_ranked_however_many():
    # 150 false detections ahead of the true one; COCO's default would cut at 100
    boxes = [square(1000)] * 150 + [square(10)]
    one = [scene(boxes, [0] * 151, [square(10)], [0], scores=np.linspace(1, 0, 151))]
    assert ap50(one, class_aware=True) == pytest.approx(1 / 151)


def test_no_detection_is_zero_and_no_truth_an_error():
    assert ap50([scene([], [], [square(10)], [0])], class_aware=True) == 0.0
    with pytest.raises(ValueError, match="no ground-truth instance"):
        ap50([scene([square(10)], [0], [], [])], class_aware=True)


def test_nothing_is_printed(capsys):
    ap50([scene([square(10)], [0], [square(10)], [0])], class_aware=True)
    assert capsys.readouterr().out == ""
