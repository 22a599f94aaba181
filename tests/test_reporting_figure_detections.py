"""Figure 5: which images are shown, and which detections on them are right."""

import numpy as np
import pytest
from test_reporting_tables import HARD, make_config, put_run

from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.reporting.figures.figure5_detections import figure5, panel, repeats
from mist_bench.reporting.figures.parts import CROSS, RIGHT, TRUTH, WRONG, MissingResultError


def test_repeats_by_hand():
    labels = [np.array(one, np.int64) for one in ([1, 2, 3], [6, 0, 6, 6], [], [0, 0, 0, 0])]
    assert repeats(labels, 3).tolist() == [1, 3]


def scene_arrays(shift=0):
    """Two images of nine digits: image 0 without a repeated digit, image 1 with three sixes."""
    x, y = np.meshgrid([14, 40, 66], [14, 40, 66])
    boxes = np.stack([x.ravel(), y.ravel(), np.full(9, 20), np.full(9, 20)], 1)
    boxes = np.repeat(boxes[None], 2, 0).astype(np.float32)
    boxes[..., 0] += shift
    labels = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [6, 1, 6, 3, 4, 6, 0, 0, 8]])
    return boxes, labels


def put_detections(folder):
    """Store MNIST-hard as two images of squares, and what two methods find on them."""
    data = folder / "datasets" / "mnist_hard"
    data.mkdir(parents=True)
    boxes, labels = scene_arrays()
    images = np.zeros((2, 1, 80, 80), np.uint8)
    for i, j in np.ndindex(2, 9):
        x, y = boxes[i, j, :2].astype(int)
        images[i, 0, y - 7 : y + 8, x - 4 : x + 5] = 200
    arrays = {"images": images, "counts": np.array([9, 9]), "labels": labels, "boxes": boxes}
    entry = save_split(data, "test", Split(arrays, "squares"))
    save_manifest(data, {"source": "squares made by hand", "splits": {"test": entry}})
    for method, shift in (("mist", 1), ("channelwise", 9)):
        put_run(folder, method, 0, {"both": 0.9})
        found, guessed = scene_arrays(shift)
        guessed = guessed.copy()
        guessed[1, 0] = 9  # one digit mislabeled
        np.savez(
            folder / "runs" / HARD / method / "seed0" / "predictions.npz",
            counts=np.array([9, 9]),
            boxes=found,
            scores=np.ones((2, 9), np.float32),
            labels=guessed,
        )


@pytest.fixture
def results(tmp_path):
    put_detections(tmp_path / "cpu")
    return tmp_path / "cpu"


def test_a_panel_knows_right_from_wrong(results):
    boxes, labels = scene_arrays()
    truth = {
        "images": np.full((2, 1, 80, 80), 51, np.uint8),
        "counts": np.array([9, 9]),
        "labels": labels,
        "boxes": boxes,
    }
    with np.load(results / "runs" / HARD / "mist" / "seed0" / "predictions.npz") as stored:
        one = panel(truth, dict(stored), 1)
    assert one.right.tolist() == [False] + [True] * 8
    assert one.image[0, 0] == pytest.approx(0.2)


def test_figure5_shows_both_methods_on_the_image_with_three_sixes(results):
    figure = figure5(make_config(seeds=[0]), results)
    mist, channelwise = figure.axes
    # nine digits, of which one is mislabeled; 9 px beside them none is right
    assert mist.get_title() == "MIST, test image 1: 8 of 9 right"
    assert channelwise.get_title() == "Ch.-wise, test image 1: 0 of 9 right"
    colors = [[line.get_color() for line in ax.lines] for ax in figure.axes]
    assert colors == [[TRUTH] * 9 + [WRONG] + [RIGHT] * 8, [TRUTH] * 9 + [WRONG] * 9]
    assert [one.get_text() for one in mist.texts][:3] == [f"9{CROSS}", "1", "6"]


def test_what_figure5_lacks_is_named(results):
    with pytest.raises(MissingResultError, match=f"does not run channelwise in {HARD}"):
        figure5(make_config(methods=["mist"]), results)
    (results / "runs" / HARD / "mist" / "seed0" / "predictions.npz").unlink()
    with pytest.raises(MissingResultError, match=f"{HARD}/mist/seed0 has no predictions"):
        figure5(make_config(seeds=[0]), results)
