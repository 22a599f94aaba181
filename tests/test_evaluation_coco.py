import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_evaluation_matching import scene, square

from mist_bench.evaluation.coco import ap50, ap_center, interpolated_precision


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


def test_a_center_on_the_edge_is_inside_and_the_size_does_not_matter():
    tiny = (20, 10, 1, 1)  # its center on the right edge of a 20 px square at 10
    assert ap_center([scene([tiny], [1], [square(10)], [1])]) == 1.0
    assert ap50([scene([tiny], [1], [square(10)], [1])], class_aware=True) == 0.0
    assert ap_center([scene([(20.01, 10, 1, 1)], [1], [square(10)], [1])]) == 0.0


def test_a_true_box_is_taken_once_by_the_most_certain():
    # both in the same box: the second is wrong, so that the third is right at a precision of 2/3
    boxes, truths = [square(10), square(12), square(50)], [square(10), square(50)]
    one = [scene(boxes, [1] * 3, truths, [1] * 2, scores=[0.9, 0.8, 0.7])]
    # recalls 0 to .5 have precision 1, the other 50 of 101 have 2/3
    assert ap_center(one) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_greedy_in_the_order_of_scores():
    # the better-scored one takes the nearer truth, the only one that the other is inside
    one = scene([square(14), square(5)], [1, 1], [square(10), square(20)], [1, 1])
    assert one.center_distance.tolist() == [[0.4, 0.6], [0.5, 1.5]]
    assert ap_center([one]) == pytest.approx(51 / 101)


def test_the_mean_is_over_the_classes_that_occur():
    # class 1 is found, class 2 is not; class 3 is nowhere, whatever is detected
    one = [scene([square(10), square(90)], [1, 3], [square(10), square(50)], [1, 2])]
    assert ap_center(one) == pytest.approx(0.5)


def test_images_without_detections_or_truths():
    found = scene([square(10)], [1], [square(10)], [1], scores=[0.5])
    false = scene([square(10)], [1], [], [], scores=[0.9])
    none = scene([], [], [square(10)], [1])
    assert ap_center([found, false]) == 0.5
    assert ap_center([found, none]) == pytest.approx(51 / 101)
    assert ap_center([none]) == 0.0
    with pytest.raises(ValueError, match="no ground-truth instance"):
        ap_center([false])


def test_precision_at_101_recalls_by_hand():
    # precisions 1, 1/2, 2/3 at recalls 1/3, 1/3, 2/3: recall levels 0-33, 34-66, and 67-100
    right = np.array([True, False, True])
    assert interpolated_precision(right, 3) == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert interpolated_precision(np.zeros(0, bool), 3) == 0.0


class CenterEval(COCOeval):
    """COCO's evaluation whose overlap is at least .5 exactly where the center is inside."""

    def computeIoU(self, imgId, catId):  # noqa: N802
        found = sorted(self._dts[imgId, catId], key=lambda one: -one["score"])
        overlap = np.zeros((len(found), len(self._gts[imgId, catId])))
        for k, one in enumerate(found):
            x, y, w, h = one["bbox"]
            for n, (left, top, width, height) in enumerate(
                true["bbox"] for true in self._gts[imgId, catId]
            ):
                across = abs(x + w / 2 - left - width / 2) / width
                down = abs(y + h / 2 - top - height / 2) / height
                overlap[k, n] = 1 - max(across, down)  # .5 on the edge
        return overlap


def coco_of(scenes, true):
    """Return the boxes of scenes as COCO has them."""
    annotations = []
    for image, one in enumerate(scenes):
        boxes, labels = (one.true_boxes, one.true_labels) if true else (one.boxes, one.labels)
        for k, ((x, y, w, h), label) in enumerate(
            zip(boxes.tolist(), labels.tolist(), strict=True)
        ):
            record = {"image_id": image, "category_id": label, "iscrowd": 0, "area": w * h}
            record |= {"id": len(annotations) + 1, "bbox": [x - w / 2, y - h / 2, w, h]}
            annotations.append(record | ({} if true else {"score": one.scores[k]}))
    coco = COCO()
    categories = {int(label) for one in scenes for label in one.true_labels}
    coco.dataset = {
        "images": [{"id": image} for image in range(len(scenes))],
        "categories": [{"id": label} for label in categories],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def oracle(scenes):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = CenterEval(coco_of(scenes, True), coco_of(scenes, False), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., -1]  # up to 100 detections
    return precision[precision > -1].mean()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_cocos_own_evaluation_agrees(seed):
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(6):
        found, true = rng.integers(0, 6), rng.integers(0, 5)
        boxes = rng.uniform((0, 0, 5, 5), (40, 40, 30, 30), (found + true, 4))
        labels = rng.integers(1, 4, found + true)
        scores = rng.integers(0, 5, found) / 4  # with ties
        parts = boxes[:found], labels[:found], boxes[found:], labels[found:]
        scenes.append(scene(*parts, scores=scores))
    if sum(len(one.true_boxes) for one in scenes):
        assert ap_center(scenes) == pytest.approx(oracle(scenes), abs=1e-12)
