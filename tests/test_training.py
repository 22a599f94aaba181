"""The training loop: what methods are shown, in which order, what a run leaves, how it fails."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_arrays
from safetensors.torch import load_file
from spies import CODE, FILES, Spy, curves, kill_hard, same_results, stop_at

from mist_bench.config.resolve import canonical
from mist_bench.config.schema import Training
from mist_bench.run import training
from mist_bench.run.batches import choose, epoch_order, make_batch
from mist_bench.run.method import stream
from mist_bench.run.prediction import predict_split
from mist_bench.run.training import schedule
from mist_bench.types import Prediction

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("supervision", "labels", "boxes"),
    [("none", False, False), ("labels", True, False), ("boxes", True, True)],
)
def test_undeclared_supervision_is_withheld(spy, spy_spec, train_tiny, supervision, labels, boxes):
    spy.supervision = supervision
    train_tiny(spy_spec())
    assert len(spy.batches) == 12
    for batch in spy.batches:
        assert batch.images.shape == (4, 1, 24, 24)
        assert (batch.labels is not None) == labels
        assert (batch.boxes is not None) == boxes


def test_a_misspelt_supervision_sees_nothing(spy, spy_spec, train_tiny):
    spy.supervision = "label"
    with pytest.raises(ValueError, match="must be one of none, labels, boxes, got 'label'"):
        train_tiny(spy_spec())
    assert spy.batches == []


def test_labels_alone_are_sorted_and_with_boxes_in_their_order():
    arrays = tiny_arrays(3, seed=0)
    arrays["labels"] = np.array([[2, 1], [0, 2], [1, -1]])
    arrays["counts"] = np.array([2, 2, 1])
    labels = make_batch(arrays, [0, 1, 2], "labels", CPU).labels
    assert [one.tolist() for one in labels] == [[1, 2], [0, 2], [1]]
    batch = make_batch(arrays, [2, 0], "boxes", CPU)
    assert [one.tolist() for one in batch.labels] == [[1], [2, 1]]
    assert batch.boxes[0].equal(torch.from_numpy(arrays["boxes"][2, :1]))
    assert batch.boxes[1].equal(torch.from_numpy(arrays["boxes"][0]))


def test_images_are_between_0_and_1():
    arrays = tiny_arrays(3, seed=0)
    images = make_batch(arrays, [2, 0], "none", CPU).images
    assert images.dtype == torch.float32
    assert images.equal(torch.from_numpy(arrays["images"][[2, 0]] / np.float32(255)))
    assert images.max() == 1


@pytest.mark.parametrize(("batch_size", "size"), [(4, 20), (3, 10), (7, 5), (1, 4)])
def test_each_epoch_shows_every_image_once(batch_size, size):
    steps = 3 * size
    shown = np.concatenate([choose(0, step, batch_size, size) for step in range(1, steps + 1)])
    assert len(shown) == steps * batch_size
    epochs = shown.reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


def test_a_batch_may_end_an_epoch_and_begin_the_next():
    first, second = epoch_order(3, 0, 5), epoch_order(3, 1, 5)
    assert choose(3, 2, 4, 5).tolist() == [first[4], *second[:3]]


def test_epochs_and_seeds_have_their_own_order():
    orders = [epoch_order(seed, epoch, 50).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(1, 1, 50).tolist() == orders[3]


def test_streams_of_a_run_are_independent():
    draws = {purpose: stream(0, purpose).random() for purpose in ("init", "order", "method")}
    assert len(set(draws.values())) == 3
    assert stream(0, "init").random() == draws["init"]
    with pytest.raises(ValueError, match="not in"):
        stream(0, "inti")


def after_drawing(amount, method):
    """Return a ``build`` that draws ``amount`` numbers first, as larger networks would."""

    def build(task):
        torch.rand(amount)
        return method

    return build


def test_draws_in_training_ignore_how_weights_were_drawn(spy, spy_spec, train_tiny, monkeypatch):
    draws = []
    for amount in (0, 7):
        monkeypatch.setattr(sys.modules["spy"], "build", after_drawing(amount, spy))
        with monkeypatch.context() as patch:
            stop_at(patch, 1, lambda: draws.append(torch.rand(1).item()), owner=Spy)
            train_tiny(spy_spec(), f"after {amount}")
    assert draws[0] == draws[1]


def budget(**changes):
    fields = {"steps": 10, "batch_size": 1, "validate_every": 1, "checkpoint_every": 1}
    return Training(**{**fields, "log_every": 1, **changes})


@pytest.mark.parametrize(
    ("step", "expected"),
    [(1, 0.5), (2, 1.0), (4, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2), (6, 0.6), (10, 0.2)],
)
def test_the_schedule_by_hand(step, expected):
    assert schedule(step, budget(warmup=2, final_lr=0.2)) == pytest.approx(expected)


def test_without_warmup_and_decay_the_rate_is_constant():
    assert {schedule(step, budget()) for step in range(1, 11)} == {1.0}


def test_the_loop_follows_the_schedule(spy, spy_spec, train_tiny):
    spec = spy_spec(steps=4, warmup=2, final_lr=0.5)
    train_tiny(spec)
    expected = [0.1 * schedule(step, spec.training) for step in (1, 2, 3, 4)]
    assert spy.rates == pytest.approx(expected)
    assert spy.rates[-1] == pytest.approx(0.05)


def test_a_run_leaves_its_files_and_nothing_else(tiny_spec, train_tiny):
    spec = tiny_spec()
    out = train_tiny(spec)
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "config.json").read_text() == canonical(spec) + "\n"
    assert [row["step"] for row in curves(out)["train"]] == ["3", "6", "9", "12"]
    assert [row["step"] for row in curves(out)["val"]] == ["6", "12"]
    assert set(curves(out)["train"][0]) == {
        *("step", "loss", "heatmap_loss", "offset_loss", "keypoint_shift")
    }
    with np.load(out / "heatmaps.npz") as stored:  # validations, and early steps
        assert stored["steps"].tolist() == [1, 2, 5, 6, 10, 12]


def test_the_record_says_what_a_run_was(tiny_spec, train_tiny):
    out = train_tiny(tiny_spec())
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "ok"
    assert (record["steps"], record["threads"], record["resumed"]) == (12, 1, 0)
    assert record["code"] == CODE
    tensors = load_file(out / "weights.safetensors")
    learned = [v for k, v in tensors.items() if "running" not in k and "num_batches" not in k]
    assert record["parameters"] == sum(v.numel() for v in learned)
    assert 50 < record["peak_memory_mib"] < 50_000
    assert record["seconds"] > 0
    assert record["cpu_seconds"] > 0
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["device"] == "cpu"
    for key in ("commit", "cpu", "gpu", "cores", "manifest", "peak_gpu_memory_mib"):
        assert key in record


@pytest.mark.parametrize("method", ["mist", "channelwise", "supervised"])
def test_a_seed_fixes_the_result(tiny_spec, train_tiny, method):
    first, again, other = (
        train_tiny(tiny_spec(method, seed), name) for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    same_results(first, again)
    assert curves(first)["train"] != curves(other)["train"]


@pytest.mark.parametrize(("select", "kept"), [("last", 12), ("best", 6)])
def test_the_weights_kept_are_the_selected_ones(spy, spy_spec, train_tiny, select, kept):
    spy.good = (6, 8)  # equally good: the earlier wins
    out = train_tiny(spy_spec(validate_every=2, select=select))
    assert load_file(out / "weights.safetensors")["count"].item() == kept


def test_the_score_is_the_fraction_of_labels_found(spy, tiny_spec):
    spy.good = (0,)  # two zeros in every image
    val = tiny_arrays(6, seed=1)
    zeros = (val["labels"] == 0).sum()

    def score():
        seen = predict_split(spy, val["images"], 4, CPU)
        return training.validation_score(seen, val, tiny_spec())

    assert score() == pytest.approx(zeros / 12)
    spy.good = ()
    assert score() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_score_of_a_reconstruction_is_its_error(tiny_spec, dtype):
    gray = Prediction(torch.ones(0, 4), torch.ones(0), reconstruction=torch.ones(1, 2, 2))
    spec = tiny_spec()
    task = spec.task.__class__("reconstruction", (1, 2, 2), 1, 0, 8.0)
    white = 255 if dtype == np.uint8 else 1
    val = {"images": np.zeros((4, 1, 2, 2), dtype)}
    val["images"][0] = white  # right in one image of four
    score = training.validation_score([gray] * 4, val, spec.model_copy(update={"task": task}))
    assert score == pytest.approx(-math.sqrt(0.75))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(
    spy, spy_spec, train_tiny, tmp_path, monkeypatch, value
):
    stop_at(monkeypatch, 3, lambda: setattr(spy, "loss", value), owner=Spy)
    with pytest.raises(ValueError, match=f"^loss is {value} at step 3: training has diver") as info:
        train_tiny(spy_spec())
    assert "\n" not in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_are_not_finite_are_never_kept(
    spy, spy_spec, train_tiny, tmp_path, monkeypatch
):
    def poison():
        spy.count.data.fill_(math.nan)

    stop_at(monkeypatch, 12, poison, owner=Spy)  # the last loss is still finite
    with pytest.raises(ValueError, match="the sum of weights is nan at step 12"):
        train_tiny(spy_spec())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_heatmap_that_diverges_ends_the_run(tiny_spec, train_tiny):
    with pytest.raises(ValueError, match="training has diverged") as info:
        train_tiny(tiny_spec(params={"adam": {"lr_detector": 1e30}}, warmup=0))
    assert "\n" not in str(info.value)


def fill_disk(patch, name):
    """Let the write of one file of the run's folder stop in the middle."""
    error = OSError(28, "No space left on device")
    write_text = Path.write_text

    def half_text(path, text, **options):
        done = write_text(path, text[:5] if path.name == name else text, **options)
        if path.name == name:
            raise error
        return done

    def half_file(_, path):
        write_text(path, "half")
        raise error

    def half_table(_, out):
        half_file(None, out / "train.csv")

    patch.setattr(Path, "write_text", half_text)
    if name == "weights.safetensors":
        patch.setattr("mist_bench.run.record.shutil.copyfile", half_file)
    if name == "train.csv":
        patch.setattr("mist_bench.run.record.RunLog.write", half_table)


@pytest.mark.parametrize("name", ["train.csv", "weights.safetensors", "config.json", "run.json"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_no_half_written_run(
    tiny_spec, train_tiny, tmp_path, monkeypatch, name, earlier
):
    """A run that was there stays as it was, and the next attempt has nothing to train."""
    out = tmp_path / "out"
    if earlier:
        train_tiny(tiny_spec(seed=5), work=tmp_path / "earlier")
    before = {path.name: path.read_bytes() for path in out.glob("*")}
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(OSError, match="No space left"):
            train_tiny(tiny_spec())
    assert {path.name: path.read_bytes() for path in out.glob("*")} == before
    stop_at(monkeypatch, 1, kill_hard)
    assert {path.name for path in train_tiny(tiny_spec()).iterdir()} == FILES


def test_a_label_without_a_class_is_refused_before_the_first_step(spy, spy_spec, train_tiny):
    task = dataclasses.replace(spy_spec().task, num_classes=2)
    spec = spy_spec().model_copy(update={"task": task})
    with pytest.raises(ValueError, match="hold the label 2, but the task has 2 classes"):
        train_tiny(spec)
    assert spy.batches == []
