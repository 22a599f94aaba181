"""Figure 6: which images are shown, and which detections on them are right."""

import json

import numpy as np
import pytest
from test_reporting_classes import PASCAL, STAND_IN, pascal_config
from test_reporting_tables import put_run

from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.evaluation.metrics import compute
from mist_bench.reporting.figures.figure6_photographs import (
    FALSE,
    FOUND,
    examples,
    figure6,
    name,
    panel,
)
from mist_bench.reporting.figures.parts import CROSS, DPI, TRUTH, MissingResultError
from mist_bench.types import TaskSpec

SIDE, BOX = 224, 112
CAR, CAT, PERSON, TV = (VOC_CLASSES.index(name) for name in ("car", "cat", "person", "tvmonitor"))
COLORS = {CAR: (200, 60, 60), CAT: (70, 120, 220), PERSON: (230, 200, 60), TV: (120, 60, 160)}
# objects of each test image: class, center x and y, width, height
OBJECTS = [
    [(CAR, 60, 70, 90, 60), (CAR, 160, 150, 90, 60)],
    [(CAR, 70, 60, 100, 70), (PERSON, 160, 150, 60, 110)],
    [(CAT, 120, 110, 110, 90)],
    [(PERSON, 50, 110, 60, 120), (TV, 170, 70, 90, 80)],
    [(TV, 190, 190, 60, 60), (CAT, 60, 60, 90, 90)],
    [(PERSON, 30, 120, 55, 150)],
    [(CAT, 60, 170, 90, 80), (CAR, 165, 60, 90, 70)],
    [(CAT, 60, 170, 90, 80), (PERSON, 165, 60, 60, 80)],
    [(TV, 110, 110, 100, 100)],
]
SHOWN = [1, 3, 4, 6, 2, 5]  # four pairs of different classes, then two alone


def scene_arrays():
    """Return a test split of the ``OBJECTS``: one color for each class, on clutter."""
    rng = np.random.default_rng(0)
    N = len(OBJECTS)
    images = rng.integers(90, 170, (N, 3, SIDE // 8, SIDE // 8)).repeat(8, 2).repeat(8, 3)
    images = images.astype(np.uint8)
    counts = np.array([len(one) for one in OBJECTS])
    labels, boxes = np.full((N, 2), -1), np.zeros((N, 2, 4), np.float32)
    y, x = np.mgrid[:SIDE, :SIDE]
    for i, objects in enumerate(OBJECTS):
        for j, (label, *box) in enumerate(objects):
            inside = (2 * np.abs(x - box[0]) <= box[2]) & (2 * np.abs(y - box[1]) <= box[3])
            images[i, :, inside] = COLORS[label]
            labels[i, j], boxes[i, j] = label, box
    return {"images": images, "counts": counts, "labels": labels, "boxes": boxes}


def detections(*given):
    """Return the predictions of all images: of each, (label, x, y) per detection."""
    boxes, labels = np.zeros((len(given), 2, 4), np.float32), np.zeros((len(given), 2), np.int64)
    for i, one in enumerate(given):
        for k, (label, x, y) in enumerate(one):
            boxes[i, k], labels[i, k] = (x, y, BOX, BOX), label
    counts = np.array([len(one) for one in given])
    return {"counts": counts, "boxes": boxes, "labels": labels, "scores": np.ones((len(given), 2))}


def found_by_mist():
    """Each object a little beside its center, the second of images 3 and 4 as another class."""
    found = [[(label, x + 6, y - 9) for label, x, y, _, _ in one] for one in OBJECTS]
    for i in (3, 4):
        found[i][1] = (PERSON if i == 4 else CAT, *found[i][1][1:])
    for i in (2, 5, 8):
        found[i].append((0, 100, 100))  # background
    return detections(*found)


def found_by_xie20():
    """Twice the first object; in the images of one, far from it or background."""
    found = [[(one[0][0], *one[0][1:3]), (one[0][0], one[0][1] + 8, one[0][2])] for one in OBJECTS]
    found[2] = [(CAT, 200, 30), (0, 10, 10)]
    found[5] = [(0, 30, 120), (0, 100, 100)]
    return detections(*found)


@pytest.fixture
def results(tmp_path):
    return put_natural(tmp_path / "cpu")


def put_natural(folder):
    """Store the split and what both methods find on it."""
    data = folder / "datasets" / "pascal_coco"
    data.mkdir(parents=True)
    entry = save_split(data, "test", Split(scene_arrays(), STAND_IN))
    save_manifest(data, {"source": STAND_IN, "splits": {"test": entry}})
    for method, arrays in (("mist", found_by_mist()), ("soft_topk", found_by_xie20())):
        put_run(folder, method, 0, {}, experiment=PASCAL)
        np.savez(folder / "runs" / PASCAL / method / "seed0" / "predictions.npz", **arrays)
    return folder


def test_the_examples_by_hand():
    counts = np.array([2, 1, 2, 0, 2, 2, 1, 2, 1, 2])
    labels = np.array(
        [[1, 1], [3, -1], [1, 2], [-1, -1], [2, 1]] + [[4, 5], [1, -1]] * 2 + [[7, 8]]
    )
    assert examples(counts, labels).tolist() == [2, 4, 5, 7, 1, 6]
    assert examples(counts[:3], labels[:3]).tolist() == [2, 1]
    assert examples(np.array([1, 1]), np.array([[3], [4]])).tolist() == [0, 1]
    assert examples(np.array([0]), np.array([[-1, -1]])).tolist() == []


def test_the_examples_do_not_depend_on_what_is_found(results):
    figure = figure6(pascal_config(), results)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"test image {i}" for i in SHOWN] + [""] * 6
    assert [ax.get_ylabel() for ax in figure.axes] == ["MIST", *[""] * 5, "Xie20", *[""] * 5]
    for top, bottom in zip(figure.axes[:6], figure.axes[6:], strict=True):
        np.testing.assert_array_equal(*(ax.get_images()[0].get_array() for ax in (top, bottom)))
    assert figure.axes[0].get_images()[0].get_array().shape == (SIDE, SIDE, 3)


def test_a_panel_counts_as_table4_does(results):
    truth = scene_arrays()
    task = TaskSpec("classification", (3, SIDE, SIDE), 2, 21, float(BOX), background=0)
    for found in (found_by_mist(), found_by_xie20()):
        panels = [panel(truth, found, i, 0) for i in range(len(OBJECTS))]
        right = sum(int(one.right.sum()) for one in panels)
        metrics = compute(task, truth, found)
        assert metrics["recall"] == right / sum(map(len, OBJECTS))
        assert metrics["precision"] == right / sum(len(one.right) for one in panels)


def test_right_is_green_wrong_is_red_with_a_cross_and_background_is_not_drawn(results):
    axes = figure6(pascal_config(), results).axes
    words = [[one.get_text() for one in ax.texts] for ax in axes]
    colors = [[one.get_color() for one in ax.lines] for ax in axes]
    # image 1: both found by MIST, and the car twice by Xie20
    assert words[0] == ["car", "person", "car", "person"]
    assert colors[0] == [TRUTH] * 2 + [FOUND] * 4  # of each detection, the box and its center
    assert words[6] == ["car", "person", "car", f"car{CROSS}"]
    assert colors[6] == [TRUTH] * 2 + [FOUND] * 2 + [FALSE] * 2
    # image 3: the second is right in its place and wrong in its name
    assert words[1] == ["person", "tvmonitor", "person", f"cat{CROSS}"]
    # images 2 and 5: background beside what is found, or alone
    assert words[4] == ["cat", "cat"]
    assert words[10] == ["cat", f"cat{CROSS}"]
    assert words[11] == ["person"]
    below = [ax.get_xlabel() for ax in axes]
    assert below[:2] == ["2 of 2 found", "1 of 2 found, 1 wrong"]
    assert below[10:] == ["0 of 1 found, 1 wrong", "0 of 1 found"]


def test_every_box_of_a_detection_has_the_fixed_size(results):
    for ax in figure6(pascal_config(), results).axes:
        outlines = [one.get_xydata() for one in ax.lines if len(one.get_xydata()) == 5]
        sizes = [np.ptp(one, axis=0).tolist() for one in outlines]  # no truth is as large
        assert sizes.count([BOX, BOX]) == sum(one.get_marker() == "+" for one in ax.lines)


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("edge", ["top", "bottom"])
@pytest.mark.parametrize("center", [(0, 0), (223, 223), (100, 120), (130, 20)])
def test_the_name_of_every_class_stays_inside_the_panel(center, edge, outer, results):
    ax = figure6(pascal_config(), results).axes[0]
    ax.get_figure().set_dpi(DPI)  # a panel has 420 px
    for words in VOC_CLASSES[1:]:
        box = np.array([*center, 20, 20])
        name(ax, box, words + CROSS, outer=outer, edge=edge, weight="bold")
        frame, place = ax.get_window_extent(), ax.texts[-1].get_window_extent()
        assert frame.x0 - 1 <= place.x0 < place.x1 <= frame.x1 + 1
        assert frame.y0 - 3 <= place.y0 < place.y1 <= frame.y1 + 3


def test_the_caption_says_what_is_shown(results):
    caption = " ".join(figure6(pascal_config(), results).texts[-1].get_text().split())
    for words in (
        "seed 0; training steps: MIST 3,000, Xie20 3,000.",
        f"Data: {STAND_IN}.",
        "Images: the first 4 of the test set with two objects of different classes and the first 2",
    ):
        assert words in caption


def test_what_figure6_lacks_is_named(results):
    with pytest.raises(MissingResultError, match=f"does not run soft_topk in {PASCAL}"):
        figure6(pascal_config(methods=["mist"]), results)
    stored = results / "runs" / PASCAL / "soft_topk" / "seed0" / "predictions.npz"
    stored.rename(stored.with_name("kept"))
    with pytest.raises(MissingResultError, match=f"{PASCAL}/soft_topk/seed0 has no predictions"):
        figure6(pascal_config(), results)
    stored.with_name("kept").rename(stored)
    arrays = scene_arrays()
    arrays["counts"][:], arrays["labels"][:], arrays["boxes"][:] = 0, -1, 0
    entry = save_split(results / "datasets" / "pascal_coco", "test", Split(arrays, STAND_IN))
    manifest = {"source": STAND_IN, "splits": {"test": entry}}
    (results / "datasets" / "pascal_coco" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MissingResultError, match="no test image has one object, or two"):
        figure6(pascal_config(), results)
