import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation_matching import scene, square

from mist_bench.evaluation import detection
from mist_bench.evaluation.detection import (
    box_hits,
    center_hits,
    fraction,
    greedy_box_hits,
    greedy_center_hits,
    label_hits,
    label_hits_official,
    label_metrics,
    location_metrics,
    overlaps,
    overlaps_official,
    precision_recall_f1,
)
from mist_bench.evaluation.matching import Scene

EMPTY = scene([], [], [], [])


def test_one_detection_may_serve_two_truths_only_officially():
    one = [scene([square(10)], [1], [square(8), square(12)], [1, 1])]
    assert fraction(one, overlaps_official) == 1.0
    assert fraction(one, overlaps) == 0.5


def test_iou_of_exactly_one_half_counts_only_when_corrected():
    one = [scene([(10, 10, 10, 20)], [1], [square(10)], [1])]
    assert fraction(one, overlaps_official) == 0.0
    assert fraction(one, overlaps) == 1.0
    assert fraction(one, greedy_box_hits) == 1.0  # official: >= here, > there


def test_errors_on_digit_zero_are_not_counted_officially():
    # truth 0, 0, 5; found 5, 5, 5: two zeros are missing
    one = [scene([square(0)] * 3, [5, 5, 5], [square(0)] * 3, [0, 0, 5])]
    assert fraction(one, label_hits) == pytest.approx(1 / 3)
    assert fraction(one, label_hits_official) == 1.0


def test_errors_on_other_digits_are_counted_in_both():
    # truth 1, 1, 0, 5; found 1, 0, 0, 7: a 1 and the 5 are missing
    one = [scene([square(0)] * 4, [1, 0, 0, 7], [square(0)] * 4, [1, 1, 0, 5])]
    assert fraction(one, label_hits) == 0.5
    assert fraction(one, label_hits_official) == 0.5


def test_labels_are_counted_per_image():
    first = scene([square(0)], [1], [square(0)], [2])
    second = scene([square(0)], [2], [square(0)], [1])
    assert fraction([first, second], label_hits) == 0.0


def test_both_is_optimal_and_official_both_is_greedy():
    # truth 0 takes the detection between the two (IoU 18/22 against 17/23), which truth 1 needs
    one = [scene([square(12), square(7)], [3, 3], [square(10), square(14)], [3, 3])]
    np.testing.assert_allclose(one[0].iou, [[18 / 22, 18 / 22], [17 / 23, 13 / 27]])
    assert fraction(one, greedy_box_hits) == 0.5
    assert fraction(one, box_hits) == 1.0


def test_both_needs_the_label():
    one = [scene([square(10), square(50)], [3, 4], [square(10), square(50)], [3, 5])]
    assert fraction(one, box_hits) == fraction(one, greedy_box_hits) == 0.5
    assert fraction(one, overlaps) == 1.0


def test_fractions_are_over_the_whole_set_not_the_mean_of_images():
    full = scene([square(10)], [1], [square(10)], [1])
    half = scene([square(10)], [1], [square(10), square(50), square(90)], [1, 1, 1])
    assert fraction([full, half], box_hits) == 0.5
    assert fraction([full, half], label_hits) == 0.5


def test_no_detection_is_zero_everywhere():
    one = [scene([], [], [square(10), square(50)], [1, 0])]
    metrics = location_metrics(one) | label_metrics(one)
    assert metrics.pop("center_error") is None
    assert metrics.pop("miss_rate") == 1.0
    assert metrics.pop("classification_official") == 0.5  # the missing 0 is not counted
    assert set(metrics.values()) == {0.0}


def test_images_without_truth_count_only_against_precision():
    full = scene([square(10)], [1], [square(10)], [1])
    extra = scene([square(10)], [1], [], [])
    metrics = label_metrics([full, extra, EMPTY])
    assert metrics["both"] == metrics["classification"] == metrics["recall"] == 1.0
    assert metrics["precision"] == metrics["both_precision"] == 0.5
    assert metrics["f1"] == metrics["both_f1"] == pytest.approx(2 / 3)


def test_no_truth_in_any_image_is_an_error():
    with pytest.raises(ValueError, match="no ground-truth instance"):
        location_metrics([EMPTY])


def test_surplus_detections_do_not_raise_recall_style_metrics():
    # two detections for one truth: the better-scored one is wrong
    one = [scene([square(50), square(10)], [2, 1], [square(10)], [1], scores=[0.9, 0.1])]
    metrics = location_metrics(one) | label_metrics(one)
    assert metrics["iou50"] == metrics["iou50_official"] == 0.0
    assert metrics["both"] == metrics["classification"] == 0.0
    assert metrics["recall"] == 1.0
    assert metrics["precision"] == 0.5
    assert metrics["detections_per_instance"] == 2.0


def test_diagnostics_by_hand():
    one = scene(
        [(13, 14, 20, 20), square(10), square(100)],
        [0, 0, 0],
        [square(10), square(50), square(90)],
        [0, 0, 0],
    )
    metrics = location_metrics([one])
    # truth 0 is served exactly, by the second; the first (3, 4 off) is a duplicate; truth 1 has
    # nothing; truth 2 has a center on its edge (inside) but an IoU of 1/3
    assert metrics["center_error"] == 0.0
    assert metrics["duplicate_rate"] == pytest.approx(1 / 3)
    assert metrics["miss_rate"] == pytest.approx(1 / 3)
    assert metrics["iou50"] == pytest.approx(1 / 3)


def test_center_precision_and_recall_over_images_with_more_fewer_and_no_instances():
    # tolerance 2.5 px; found 1 of 2 with 1 detection, 1 of 1 with 3, and 0 of 0 with 1
    few = scene([square(11)], [0], [square(10), square(50)], [0, 0])
    many = scene([square(10), square(12), square(90)], [0] * 3, [square(10)], [0])
    none = scene([square(10)], [0], [], [])
    metrics = location_metrics([few, many, none])
    assert metrics["center_precision"] == pytest.approx(2 / 5)
    assert metrics["center_recall"] == pytest.approx(2 / 3)
    assert metrics["center_f1"] == pytest.approx(2 * 2 / (5 + 3))


def test_center_error_is_a_distance_in_pixels():
    one = scene([(13, 14, 20, 20)], [0], [square(10)], [0])
    assert location_metrics([one])["center_error"] == pytest.approx(5.0)


def test_the_background_is_left_out():
    one = scene([square(10), square(50)], [1, 0], [square(10), square(50), square(90)], [1, 2, 0])
    assert precision_recall_f1([one], center_hits) == pytest.approx((1 / 2, 1 / 3, 2 / 5))
    objects = detection.without_background(one, 0)
    assert (objects.labels.tolist(), objects.true_labels.tolist()) == ([1], [1, 2])
    assert precision_recall_f1([objects], center_hits) == pytest.approx((1.0, 0.5, 2 / 3))
    assert detection.without_background(one, None) is one


def test_scores_of_each_class_by_hand():
    first = scene([square(10), square(50)], [1, 1], [square(10), square(50)], [1, 2])
    second = scene([square(10)], [3], [square(10), square(90)], [1, 2])
    metrics = detection.class_metrics([first, second, EMPTY], 5, 0)
    # of two detections of class 1, one is right, and one of its two instances is missed
    assert {name: value for name, value in metrics.items() if name.endswith("01")} == {
        "precision_class01": 0.5,
        "recall_class01": 0.5,
        "f1_class01": 0.5,
        "instances_class01": 2.0,
    }
    # class 2 is never detected, class 3 never there, class 4 neither
    expected = {"precision": [None, 0.0, None], "recall": [0.0, None, None], "f1": [0.0, 0.0, None]}
    for name, values in expected.items():
        assert [metrics[f"{name}_class{label:02d}"] for label in (2, 3, 4)] == values, name
    assert [metrics[f"instances_class{label:02d}"] for label in (2, 3, 4)] == [2.0, 0.0, 0.0]
    assert len(metrics) == 4 * 4  # the background has none


def test_official_center_scores_are_greedy():
    # truth 0 takes the nearer detection, which alone lies inside truth 1
    one = [scene([square(12), square(5)], [3, 3], [square(10), square(20)], [3, 3])]
    assert precision_recall_f1(one, greedy_center_hits) == (0.5, 0.5, 0.5)
    assert precision_recall_f1(one, center_hits) == (1.0, 1.0, 1.0)


def test_the_count_is_right_or_wrong_per_image():
    one, two = [square(10)], [square(10), square(50)]
    scenes = [
        scene(two, [0, 0], two, [0, 0]),  # as many
        scene([square(90)], [0], one, [0]),  # as many, elsewhere
        scene(one, [0], two, [0, 0]),  # too few: the next one does not make up for it
        scene(two, [0, 0], one, [0]),
        EMPTY,  # none of none
    ]
    assert location_metrics(scenes)["count_accuracy"] == pytest.approx(3 / 5)


def test_a_detection_where_nothing_is_makes_the_count_wrong():
    scenes = [scene([square(10)], [0], [], []), scene([square(10)], [0], [square(10)], [0])]
    assert location_metrics(scenes)["count_accuracy"] == 0.5


@st.composite
def random_scenes(draw) -> list[Scene]:
    """Few images with boxes that overlap often; at least one truth; distinct scores."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scenes = []
    for _ in range(draw(st.integers(1, 3))):
        k, n = draw(st.integers(0, 6)), draw(st.integers(1, 6))
        centers = rng.uniform(10, 30, (k + n, 2))
        boxes = np.concatenate([centers, np.full((k + n, 2), 20.0)], axis=1)
        labels = rng.integers(0, 3, k + n)
        scenes.append(Scene(boxes[:k], rng.permutation(k) / 10, labels[:k], boxes[k:], labels[k:]))
    return scenes


@given(random_scenes())
@settings(max_examples=60, deadline=None)
def test_order_of_the_metrics(scenes):
    # random floats never give an IoU of exactly one half, where official and corrected differ
    metrics = location_metrics(scenes) | label_metrics(scenes)
    assert metrics["both_official"] <= metrics["both"]
    assert metrics["both"] <= min(metrics["iou50"], metrics["classification"])
    assert metrics["iou50"] <= metrics["iou50_official"]
    assert metrics["classification"] <= metrics["classification_official"]
    assert metrics["recall_official"] <= metrics["recall"]
    for name, value in metrics.items():
        if name not in ("center_error", "detections_per_instance"):
            assert 0 <= value <= 1, name


@given(random_scenes(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_corrected_metrics_do_not_depend_on_any_order(scenes, random):
    def shuffled(one: Scene) -> Scene:
        rows, columns = list(range(len(one.boxes))), list(range(len(one.true_boxes)))
        random.shuffle(rows)
        random.shuffle(columns)
        return Scene(
            one.boxes[rows],
            one.scores[rows],
            one.labels[rows],
            one.true_boxes[columns],
            one.true_labels[columns],
        )

    before = location_metrics(scenes) | label_metrics(scenes)
    mixed = [shuffled(one) for one in scenes]
    random.shuffle(mixed)
    after = location_metrics(mixed) | label_metrics(mixed)
    for name in set(before) - {"both_official", "precision_official", "recall_official"}:
        if name != "f1_official":
            assert after[name] == pytest.approx(before[name]), name


@given(random_scenes())
@settings(max_examples=30, deadline=None)
def test_a_class_alone_scores_as_it_does_among_others(scenes):
    metrics = detection.class_metrics(scenes, 4, 3)  # labels are 0 to 2
    instances = sum(len(s.true_boxes) for s in scenes)
    assert sum(metrics[f"instances_class{label:02d}"] for label in range(3)) == instances
    for label in range(3):
        alone = scenes
        for other in {0, 1, 2} - {label}:
            alone = [detection.without_background(s, other) for s in alone]
        if sum(len(s.boxes) for s in alone) and sum(len(s.true_boxes) for s in alone):
            names = [f"{name}_class{label:02d}" for name in ("precision", "recall", "f1")]
            assert [metrics[name] for name in names] == list(
                precision_recall_f1(alone, center_hits)
            )


@given(random_scenes())
@settings(max_examples=30, deadline=None)
def test_perfect_detections_are_perfect(scenes):
    perfect = [
        Scene(s.true_boxes, np.ones(len(s.true_boxes)), s.true_labels, s.true_boxes, s.true_labels)
        for s in scenes
    ]
    metrics = location_metrics(perfect) | label_metrics(perfect)
    for name in ("iou50", "iou50_official", "both", "classification", "precision", "f1"):
        assert metrics[name] == 1.0, name
