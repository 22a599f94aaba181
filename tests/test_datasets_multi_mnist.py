import numpy as np
import pytest
from numpy.random import default_rng

from mist_bench.datasets import sources
from mist_bench.datasets.multi_mnist import make_split, paste, shrink, split_digits

pytestmark = pytest.mark.usefixtures("digit_folder")


def split(size=20, name="train", seed=0, **changes):
    return make_split(name, size, default_rng(seed), **{"radius": 16, **changes}).arrays


def frames(arrays):
    """Yield the 28 px frame of every digit, 0 where it is off the image, and its label."""
    for image, count, labels, boxes in zip(
        *(arrays[name] for name in ("images", "counts", "labels", "boxes")), strict=True
    ):
        padded = np.pad(image[0], 28)
        for label, box in zip(labels[:count], boxes[:count], strict=True):
            x, y = (box[:2] - 13.5).astype(int) + 28
            yield padded[y : y + 28, x : x + 28], label


@pytest.mark.parametrize(
    ("composite", "column"), [("max", [200, 40]), ("clipped_sum", [20 + 200, 40 + 2])]
)
def test_paste_by_hand(composite, column):
    digits = np.array([[[10, 20], [30, 40]], [[200, 1], [2, 3]]], dtype=np.uint8)
    chosen = np.array([[0, 1], [0, 1]])
    corners = np.array([[[0, 1], [1, 1]], [[2, 2], [2, 2]]])
    images = paste(digits, chosen, corners, np.array([2, 1]), 4, composite)
    expected = [[0, 0, 0, 0], [10, column[0], 1, 0], [30, column[1], 3, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(images[0], expected)
    # the second image has one digit only
    np.testing.assert_array_equal(
        images[1], [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 10, 20], [0, 0, 30, 40]]
    )


def test_clipped_sum_stops_at_white():
    digits = np.full((1, 1, 1), 200, dtype=np.uint8)
    zero = np.zeros((1, 2, 2), dtype=np.int64)
    images = paste(digits, np.zeros((1, 2), int), zero, np.array([2]), 1, "clipped_sum")
    assert images.item() == 255


@pytest.mark.parametrize(
    ("corner", "expected"),
    [
        ((-1, -1), [[40, 0], [0, 0]]),
        ((1, -1), [[0, 30], [0, 0]]),
        ((1, 1), [[0, 0], [0, 10]]),
        ((-9, 0), [[0, 0], [0, 0]]),
        ((0, 99), [[0, 0], [0, 0]]),
    ],
)
def test_what_leaves_the_canvas_is_cut_off(corner, expected):
    digits = np.array([[[10, 20], [30, 40]]], dtype=np.uint8)
    images = paste(digits, np.array([[0]]), np.array([[corner]]), np.array([1]), 2, "max")
    np.testing.assert_array_equal(images[0], expected)


def test_shrink_takes_rounded_means_of_blocks():
    digit = np.zeros((1, 28, 28), dtype=np.uint8)
    digit[0, :2, :2] = [[1, 2], [3, 4]]  # mean 2.5
    digit[0, :2, 2:4] = 255
    small = shrink(digit, 14)
    assert small.shape == (1, 14, 14)
    assert small[0, 0, :3].tolist() == [3, 255, 0]
    assert shrink(digit, 28) is digit


@pytest.mark.parametrize("margin", [10, 0])
def test_box_surrounds_the_digit_and_label_is_its_class(margin):
    arrays = split(size=60, counts=[1], margin=margin)
    digits, labels, _ = split_digits("train")
    for frame, label in frames(arrays):
        visible = np.argmin([np.abs(frame.astype(int) - d)[frame > 0].sum() for d in digits])
        assert labels[visible] == label
        kept = frame > 0
        np.testing.assert_array_equal(frame[kept], digits[visible][kept])
    x = arrays["boxes"][:, 0, :2]
    assert x.min() >= margin - 0.5
    assert x.max() <= 79.5 - margin
    assert (arrays["boxes"][..., 2:] == 20).all()


def test_crop_at_the_box_is_the_ink():
    arrays = split(size=30, counts=[1])
    inks = {digit[4:24, 4:24].tobytes() for digit in split_digits("train")[0]}
    for image, box in zip(arrays["images"], arrays["boxes"][:, 0], strict=True):
        left, top = np.ceil(box[:2] - box[2:] / 2).astype(int)  # pixel centers inside the box
        assert image[0, top : top + 20, left : left + 20].tobytes() in inks
        assert np.count_nonzero(image) == 400


@pytest.mark.parametrize("composite", ["max", "clipped_sum"])
def test_paste_equals_a_loop_over_pixels(composite):
    rng = default_rng(0)
    digits = rng.integers(256, size=(5, 3, 3), dtype=np.uint8)
    chosen, corners = rng.integers(5, size=(6, 4)), rng.integers(-3, 8, size=(6, 4, 2))
    counts = rng.integers(5, size=6)
    expected = np.zeros((6, 7, 7), dtype=int)
    for n, k, dy, dx in np.ndindex(6, 4, 3, 3):
        x, y = corners[n, k] + (dx, dy)
        if k < counts[n] and 0 <= x < 7 and 0 <= y < 7:
            old, new = expected[n, y, x], int(digits[chosen[n, k], dy, dx])
            expected[n, y, x] = max(old, new) if composite == "max" else min(old + new, 255)
    images = paste(digits, chosen, corners, counts, 7, composite)
    np.testing.assert_array_equal(images, expected)


def test_splits_share_no_digit():
    parts = {name: split_digits(name)[0] for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 100,
        "val": 20,
        "test": 40,
    }
    seen = [digit.tobytes() for part in parts.values() for digit in part]
    assert len(set(seen)) == len(seen) == 160


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_images_hold_only_digits_of_their_split(name):
    allowed = {digit.tobytes() for digit in split_digits(name)[0]}
    found = {frame.tobytes() for frame, _ in frames(split(size=150, name=name, counts=[1]))}
    assert found <= allowed
    assert len(found) > len(allowed) / 2


def test_counts_labels_and_padding():
    arrays = split(size=300, counts=[3, 6, 9])
    counts, labels, boxes = arrays["counts"], arrays["labels"], arrays["boxes"]
    assert set(counts.tolist()) == {3, 6, 9}
    assert np.bincount(counts)[[3, 6, 9]].min() > 60
    valid = np.arange(9) < counts[:, None]
    assert (labels[~valid] == -1).all()
    assert not boxes[~valid].any()
    assert np.bincount(labels[valid], minlength=10).min() > 0.6 * valid.sum() / 10
    for count, box in zip(counts, boxes, strict=True):
        distance = np.linalg.norm(box[:count, None, :2] - box[None, :count, :2], axis=-1)
        assert distance[~np.eye(count, dtype=bool)].min() >= 16


@pytest.mark.parametrize(
    "changes", [{}, {"placement": "grid", "jitter": 3.3, "sorted_digits": True}]
)
def test_train_counts_change_train_and_leave_val_and_test_as_they_are(changes):
    arrays = split(100, "train", train_counts=[0, 2, 5], **changes)
    assert set(arrays["counts"].tolist()) == {0, 2, 5}
    same = split(100, "train", **{"counts": [0, 2, 5], **changes})
    assert all((arrays[key] == same[key]).all() for key in same)
    for name in ("val", "test"):
        one, other = split(20, name, train_counts=[0, 2, 5], **changes), split(20, name, **changes)
        assert all((one[key] == other[key]).all() for key in one)


def test_fewer_sorted_digits_fill_the_first_cells_of_a_smaller_grid():
    arrays = split(1, placement="grid", jitter=0.0, sorted_digits=True, train_counts=[3])
    assert arrays["labels"].tolist() == [[0, 1, 2]]
    # cells of 40 px around 19.5 and 59.5, half pixels already
    assert arrays["boxes"][0, :, :2].tolist() == [[19.5, 19.5], [59.5, 19.5], [19.5, 59.5]]


def test_easy_is_sorted_on_a_grid():
    arrays = split(placement="grid", jitter=0.0, sorted_digits=True)
    assert (arrays["labels"] == np.arange(9)).all()
    # 12.83 + 26.67 i, rounded to the half pixels that frames of 28 px can have
    expected = [[x, y] for y in (12.5, 39.5, 66.5) for x in (12.5, 39.5, 66.5)]
    assert arrays["boxes"][0, :, :2].tolist() == expected


def test_small_digits_on_a_small_canvas():
    arrays = split(canvas=40, margin=5, digit_size=14, box_size=10, radius=8)
    assert arrays["images"].shape == (20, 1, 40, 40)
    assert (arrays["boxes"][..., :2] % 1 == 0.5).all()


def test_zero_and_no_images():
    arrays = split(size=0)
    assert arrays["images"].shape == (0, 1, 80, 80)
    arrays = split(size=30, counts=[0, 1])
    assert not arrays["images"][arrays["counts"] == 0].any()


def test_purposes_have_their_own_streams():
    one, other = split(), split(composite="clipped_sum", box_size=28)
    np.testing.assert_array_equal(one["labels"], other["labels"])
    np.testing.assert_array_equal(one["boxes"][..., :2], other["boxes"][..., :2])
    moved = split(radius=14)
    np.testing.assert_array_equal(one["labels"], moved["labels"])
    assert not np.array_equal(one["boxes"], moved["boxes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0}, "9 points 0 px apart .* radius must be > 0"),
        ({"margin": 41}, "margin 41 px leaves no room in a canvas of 80 px"),
        ({"radius": 40}, "9 points 40 px apart .* is impossible"),
        ({"counts": [12], "sorted_digits": True}, "only 10 digits exist"),
    ],
)
def test_values_that_exclude_each_other(changes, message):
    with pytest.raises(ValueError, match=message):
        split(**changes)


def test_a_class_without_digits_is_an_error(monkeypatch):
    digits = np.zeros((60, 28, 28), dtype=np.uint8), np.full(60, 4, dtype=np.uint8), "fours"
    monkeypatch.setattr(sources, "mnist", lambda part: digits)
    with pytest.raises(ValueError, match="has no digit 0"):
        split()
