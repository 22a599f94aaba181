import dataclasses
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from mist_bench.config.schema import RunSpec, Training
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.evaluation.metrics import compute, evaluate
from mist_bench.types import TaskSpec

CLASSIFY = TaskSpec("classification", (1, 40, 40), 2, 3, 20.0)
NATURAL = TaskSpec("classification", (3, 40, 40), 2, 4, 20.0, background=0)
REBUILD = TaskSpec("reconstruction", (1, 40, 40), 2, 3, 20.0)


def truth() -> dict[str, np.ndarray]:
    """Two images: one with two instances, one with one."""
    boxes = np.zeros((2, 2, 4), np.float32)
    boxes[0] = [[10, 10, 20, 20], [30, 30, 20, 20]]
    boxes[1, 0] = [20, 20, 20, 20]
    return {
        "images": np.full((2, 1, 40, 40), 51, np.uint8),
        "counts": np.array([2, 1]),
        "labels": np.array([[0, 1], [2, -1]]),
        "boxes": boxes,
    }


def found() -> dict[str, np.ndarray]:
    """Image 0: the first right, the second mislabeled. Image 1: right, and a bad second."""
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, :2] = [[10, 10, 20, 20], [30, 30, 20, 20]]
    boxes[1, :2] = [[20, 20, 20, 20], [90, 90, 20, 20]]
    return {
        "counts": np.array([2, 2]),
        "boxes": boxes,
        "scores": np.array([[0.9, 0.8, 0], [0.9, 0.1, 0]], np.float32),
        "labels": np.array([[0, 2, -1], [2, 1, -1]]),
    }


@pytest.fixture
def spec() -> RunSpec:
    budget = dict.fromkeys(("validate_every", "checkpoint_every", "log_every"), 10)
    return RunSpec(
        preset="cpu",
        experiment="mnist_hard_classification",
        method="mist",
        seed=0,
        module="mist_bench.mist",
        dataset="mnist_hard",
        task=CLASSIFY,
        params={},
        training=Training(steps=10, batch_size=2, **budget),
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "mnist_hard"
    folder.mkdir()
    entry = save_split(folder, "test", Split(truth(), "made by hand"))
    save_manifest(folder, {"source": "made by hand", "splits": {"test": entry}})
    return folder


def test_evaluate_writes_the_hand_computed_metrics(spec, data, tmp_path):
    np.savez(tmp_path / "predictions.npz", **found())
    result = evaluate(spec, data, tmp_path / "predictions.npz", tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    metrics = result.pop("metrics")
    assert result == {
        "preset": "cpu",
        "experiment": "mnist_hard_classification",
        "method": "mist",
        "seed": 0,
        "status": "ok",
        "images": 2,
        "instances": 3,
    }
    assert metrics["iou50"] == metrics["iou50_official"] == 1.0
    for name in ("classification", "classification_official", "both", "both_official", "recall"):
        assert metrics[name] == pytest.approx(2 / 3), name
    assert metrics["precision"] == metrics["both_precision"] == 0.5
    assert metrics["detections_per_instance"] == pytest.approx(4 / 3)
    # class 0 and class 2 are found (class 2 at equal rank with a false one), class 1 is not
    assert metrics["ap50"] < metrics["ap50_agnostic"] == pytest.approx(1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "metrics.json",
        "mnist_hard",
        "predictions.npz",
    ]


def test_what_predictions_are_made_of_is_kept_and_their_split_checked(spec, data, tmp_path):
    path, out = tmp_path / "predictions.npz", tmp_path / "metrics.json"
    np.savez(path, **found(), split="test", weights_sha256="abc")
    evaluate(spec, data, path, out)
    stored = json.loads(out.read_text())
    assert (stored["split"], stored["weights_sha256"]) == ("test", "abc")
    np.savez(path, **found(), split="val", weights_sha256="abc")
    with pytest.raises(ValueError, match=r"predictions.npz: of the split val; predict test first"):
        evaluate(spec, data, path, out)
    assert json.loads(out.read_text()) == stored


def test_a_bad_prediction_is_named_with_its_file_and_leaves_nothing(spec, data, tmp_path):
    arrays = found()
    arrays["labels"][0, 0] = 3
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(ValueError, match=r"predictions.npz: labels must be in 0..2") as caught:
        evaluate(spec, data, tmp_path / "predictions.npz", tmp_path / "metrics.json")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("counts", np.array([2]), r"counts must be \(2,\)"),
        ("counts", np.array([2, 4]), r"counts must be in 0..3, got 2..4"),
        ("scores", np.zeros(2), r"scores must be \(2, 2\)"),
        ("boxes", np.zeros((2, 3)), r"boxes must be \(2, 3, 4\), got \(2, 3\)"),
        ("boxes", np.full((2, 3, 4), np.nan), "boxes must be finite, 16 of 16 values are not"),
        ("boxes", np.full((2, 3, 4), -1.0), "boxes must have sizes >= 0"),
        ("scores", np.full((2, 3), np.inf), "scores must be finite"),
        ("labels", np.full((2, 3), -1), r"labels must be in 0..2: -1..-1"),
        ("labels", None, "array 'labels' is missing"),
    ],
)
def test_impossible_predictions_are_refused(name, value, words):
    arrays = found() | {name: value}
    if value is None:
        del arrays[name]
    with pytest.raises(ValueError, match=words):
        compute(CLASSIFY, truth(), arrays)


def test_what_lies_beyond_the_count_is_not_read():
    padded = found()
    padded["boxes"][:, 2], padded["scores"][:, 2] = np.nan, np.nan
    assert compute(CLASSIFY, truth(), padded) == compute(CLASSIFY, truth(), found())


def test_average_precision_is_that_of_as_many_detections_as_instances():
    """Sec. 5.3, "test with ground-truth K": image 1 has one instance, and its second box is bad."""
    arrays = found()
    arrays["scores"][1, :2] = 0.9, 0.85  # ranked above the right second box of image 0
    metrics = compute(CLASSIFY, truth(), arrays)
    assert metrics["ap50_agnostic"] == pytest.approx(1.0)
    # class 1 is never found; classes 0 and 2 are, image 0's second box being a false 2 after it
    assert metrics["ap50"] == pytest.approx(2 / 3)
    # where the bad box is the best, it is the one that counts: 2 of 3 found, and the first is wrong
    arrays["scores"][1, :2] = 0.8, 0.95
    metrics = compute(CLASSIFY, truth(), arrays)
    recalls = np.linspace(0, 1, 101)
    assert metrics["ap50_agnostic"] == pytest.approx(np.where(recalls <= 2 / 3, 2 / 3, 0).mean())


def natural() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Truth and detections of ``truth`` and ``found`` with labels from 1, and background among."""
    true, arrays = truth(), found()
    true["labels"] = np.array([[1, 2], [3, -1]])
    arrays["labels"] = np.array([[1, 0, -1], [3, 2, -1]])
    return true, arrays


def test_a_task_with_a_background_by_hand():
    metrics = compute(NATURAL, *natural())
    # of three detections two are right, and two of three instances are found
    assert metrics["precision"] == metrics["recall"] == metrics["f1"] == pytest.approx(2 / 3)
    assert metrics["precision_official"] == pytest.approx(2 / 3)
    assert metrics["detections_per_instance"] == 1.0
    assert metrics["count_accuracy"] == 0.0  # 1 of 2, and 2 of 1
    # classes 1 and 3 are found, of class 2 only the bad box is detected
    assert [metrics["ap_center"], metrics["ap50"]] == pytest.approx([2 / 3, 2 / 3])
    by_class = {"precision": [1.0, 0.0, 1.0], "recall": [1.0, 0.0, 1.0], "f1": [1.0, 0.0, 1.0]}
    for name, values in (by_class | {"instances": [1.0, 1.0, 1.0]}).items():
        assert [metrics[f"{name}_class{label:02d}"] for label in (1, 2, 3)] == values, name
    json.dumps(metrics, allow_nan=False)


def test_background_detections_change_nothing():
    true, arrays = natural()
    arrays["counts"], arrays["labels"] = np.array([1, 2]), np.array([[1, -1, -1], [3, 2, -1]])
    assert compute(NATURAL, true, arrays) == compute(NATURAL, *natural())


def test_average_precision_of_a_task_with_a_background_is_that_of_all_detections():
    true, arrays = natural()
    arrays["labels"][1, 1] = 3  # the bad box of image 1, which has one instance
    arrays["scores"][1, :2] = 0.1, 0.9
    metrics = compute(NATURAL, true, arrays)
    # class 3: wrong, then right at a precision of 1/2; class 1 is found, class 2 is not
    assert [metrics["ap_center"], metrics["ap50"]] == pytest.approx([1 / 2, 1 / 2])
    # where the number of objects is told at test (Table 5), the surer box of image 1 alone counts
    told = compute(dataclasses.replace(NATURAL, num_detections=2), true, arrays)
    assert [told["ap_center"], told["ap50"]] == pytest.approx([1 / 3, 1 / 3])


def test_an_image_may_be_left_without_a_detection():
    true, arrays = natural()
    arrays["labels"][0, 0] = 0
    metrics = compute(NATURAL, true, arrays)
    assert metrics["precision"] == 0.5
    assert metrics["recall"] == pytest.approx(1 / 3)
    arrays["labels"][1] = 0
    metrics = compute(NATURAL, true, arrays)
    assert metrics["precision"] == metrics["ap_center"] == metrics["ap50"] == 0.0
    assert metrics["precision_class03"] is metrics["center_error"] is None


def test_a_task_without_a_background_has_no_metrics_of_classes():
    names = set(compute(CLASSIFY, truth(), found()))
    assert set(compute(NATURAL, *natural())) - names == {
        "ap_center",
        *(
            f"{name}_class{label:02d}"
            for name in ("precision", "recall", "f1", "instances")
            for label in (1, 2, 3)
        ),
    }


def test_reconstruction_has_rmse_and_locations_but_no_labels():
    arrays = found() | {"reconstructions": np.zeros((2, 1, 40, 40), np.float16)}
    arrays["labels"] = np.full((2, 3), -1)
    metrics = compute(REBUILD, truth(), arrays)
    assert metrics["rmse"] == metrics["rmse_zero"] == pytest.approx(0.2)
    assert metrics["iou50"] == 1.0
    assert not {"both", "classification", "ap50"} & set(metrics)


def test_a_reconstruction_may_leave_labels_out(spec, data, tmp_path):
    arrays = found() | {"reconstructions": np.zeros((2, 1, 40, 40), np.float16)}
    del arrays["labels"]
    np.savez(tmp_path / "predictions.npz", **arrays)
    rebuild = spec.model_copy(update={"task": REBUILD})
    result = evaluate(rebuild, data, tmp_path / "predictions.npz", tmp_path / "metrics.json")
    assert result["metrics"]["rmse"] == pytest.approx(0.2)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_damaged_predictions_are_named(spec, data, tmp_path, content):
    (tmp_path / "predictions.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz: damaged .* delete it and run again"):
        evaluate(spec, data, tmp_path / "predictions.npz", tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


def test_predictions_that_cannot_be_unpacked_are_named(spec, data, tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez_compressed(path, **found())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as stored:
        info = stored.infolist()[0]
    begin = info.header_offset + 30 + len(info.filename) + 20  # after zip64's extra field
    content[begin : begin + info.compress_size] = b"\xff" * info.compress_size
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"predictions\.npz: damaged \(Error -3 .*run again"):
        evaluate(spec, data, path, tmp_path / "metrics.json")


def test_reconstruction_without_instances_has_only_rmse():
    empty = truth() | {"counts": np.array([0, 0])}
    arrays = found() | {"reconstructions": np.zeros((2, 1, 40, 40), np.float16)}
    assert set(compute(REBUILD, empty, arrays)) == {
        "rmse",
        "rmse_zero",
        "rmse_gray",
        "rmse_image_mean",
        "rmse_image_std",
    }


def test_reconstructions_must_be_there_and_finite():
    with pytest.raises(ValueError, match="'reconstructions' is missing"):
        compute(REBUILD, truth(), found())
    bad = found() | {"reconstructions": np.full((2, 1, 40, 40), np.nan, np.float16)}
    with pytest.raises(ValueError, match="reconstructions must be finite"):
        compute(REBUILD, truth(), bad)


def test_evaluation_and_reporting_do_not_import_torch():
    code = (
        "import sys, mist_bench.reporting.tables.write, mist_bench.reporting.figures.write, "
        "mist_bench.reporting.html, mist_bench.evaluation.metrics; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
