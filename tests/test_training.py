"""The training loop: what methods are shown, in which order, and how it stops and goes on."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import tiny_arrays
from safetensors.torch import load_file
from torch import nn

from mist_bench import training
from mist_bench.config import Training, canonical
from mist_bench.mist import Mist
from mist_bench.seeding import epoch_order, stream
from mist_bench.training import Interrupted, choose, make_batch, schedule, train
from mist_bench.types import Prediction

CPU = torch.device("cpu")
CODE = {"mist_bench.mist:Mist": "0" * 16}
FILES = {"config.json", "train.csv", "val.csv", "weights.safetensors", "run.json"}


class Killed(BaseException):
    """Stands for kill -9: nothing in the loop may catch it."""


class Spy(nn.Module):
    """A method that notes its batches and counts its steps in its only weight.

    Its predictions are all of class 0 where the count is in ``good``, else none.
    """

    supervision = "none"
    good = ()
    loss = 1.0

    def __init__(self):
        super().__init__()
        self.count = nn.Parameter(torch.zeros(1))
        self.optimizers = {"all": torch.optim.SGD(self.parameters(), lr=0.1)}
        self.batches, self.rates = [], []

    def train_step(self, batch):
        self.batches.append(batch)
        self.rates.append(self.optimizers["all"].param_groups[0]["lr"])
        with torch.no_grad():
            self.count += 1
        return {"loss": self.loss}

    def predict(self, images):
        amount = 2 if int(self.count) in self.good else 0
        one = Prediction(
            torch.ones(amount, 4), torch.ones(amount), torch.zeros(amount, dtype=torch.int64)
        )
        return [one] * len(images)


@pytest.fixture
def spy(monkeypatch):
    """A method that ``spec.module = "spy"`` names."""
    method, module = Spy(), ModuleType("spy")
    module.build = lambda task, **params: method
    monkeypatch.setitem(sys.modules, "spy", module)
    return method


@pytest.fixture
def spy_spec(tiny_spec):
    return lambda **training: tiny_spec(**training).model_copy(update={"module": "spy"})


@pytest.fixture
def run(tiny_dataset, tmp_path):
    """A function that trains into ``tmp_path / name`` and returns that folder."""

    def go(spec, name="out", work=None, data=tiny_dataset, code=CODE):
        out = tmp_path / name
        train(spec, data, out, work or tmp_path / f"{name}-work", "cpu", code)
        return out

    return go


def stop_at(monkeypatch, step, act, owner=Mist, name="train_step"):
    """Call ``act`` in the ``step``-th call of ``owner.name``; then let it run as before."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments):
        calls.append(1)
        if len(calls) == step:
            act()
        return function(*arguments)

    monkeypatch.setattr(owner, name, counted)


def kill_hard():
    raise Killed


def send(number):
    return lambda: os.kill(os.getpid(), number)


def curves(out):
    """Return the rows of both curves without their seconds."""
    rows = {}
    for name in ("train", "val"):
        with (out / f"{name}.csv").open() as file:
            rows[name] = [
                {key: value for key, value in row.items() if key != "seconds"}
                for row in csv.DictReader(file)
            ]
    return rows


def same_results(one, other):
    assert curves(one) == curves(other)
    assert (one / "weights.safetensors").read_bytes() == (
        other / "weights.safetensors"
    ).read_bytes()


# what a method sees


@pytest.mark.parametrize(
    ("supervision", "labels", "boxes"),
    [("none", False, False), ("labels", True, False), ("boxes", True, True)],
)
def test_undeclared_supervision_is_withheld(spy, spy_spec, run, supervision, labels, boxes):
    spy.supervision = supervision
    run(spy_spec())
    assert len(spy.batches) == 12
    for batch in spy.batches:
        assert batch.images.shape == (4, 1, 24, 24)
        assert (batch.labels is not None) == labels
        assert (batch.boxes is not None) == boxes


def test_a_misspelt_supervision_sees_nothing(spy, spy_spec, run):
    spy.supervision = "label"
    with pytest.raises(ValueError, match="must be one of none, labels, boxes, got 'label'"):
        run(spy_spec())
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


# the order of images


@pytest.mark.parametrize(("batch_size", "size"), [(4, 20), (3, 10), (7, 5), (1, 4)])
def test_each_epoch_shows_every_image_once(batch_size, size):
    steps = 3 * size
    shown = np.concatenate([choose(0, step, batch_size, size) for step in range(1, steps + 1)])
    assert len(shown) == steps * batch_size
    epochs = shown.reshape(-1, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()


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


# the schedule


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


def test_the_loop_follows_the_schedule(spy, spy_spec, run):
    spec = spy_spec(steps=4, warmup=2, final_lr=0.5)
    run(spec)
    expected = [0.1 * schedule(step, spec.training) for step in (1, 2, 3, 4)]
    assert spy.rates == pytest.approx(expected)
    assert spy.rates[-1] == pytest.approx(0.05)


# what a run leaves


def test_a_run_leaves_its_files_and_nothing_else(tiny_spec, run):
    spec = tiny_spec()
    out = run(spec)
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "config.json").read_text() == canonical(spec) + "\n"
    assert [row["step"] for row in curves(out)["train"]] == ["3", "6", "9", "12"]
    assert [row["step"] for row in curves(out)["val"]] == ["6", "12"]
    assert set(curves(out)["train"][0]) == {"step", "loss", "heatmap_loss", "keypoint_shift"}


def test_the_record_says_what_a_run_was(tiny_spec, run):
    out = run(tiny_spec())
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
    for key in ("commit", "cpu", "gpu", "cores", "manifest", "peak_gpu_memory_mib"):
        assert key in record


@pytest.mark.parametrize("method", ["mist", "channelwise", "supervised"])
def test_a_seed_fixes_the_result(tiny_spec, run, method):
    first, again, other = (
        run(tiny_spec(method, seed), name) for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    same_results(first, again)
    assert curves(first)["train"] != curves(other)["train"]


@pytest.mark.parametrize(("select", "kept"), [("last", 12), ("best", 6)])
def test_the_weights_kept_are_the_selected_ones(spy, spy_spec, run, select, kept):
    spy.good = (6, 8)  # equally good: the earlier wins
    out = run(spy_spec(validate_every=2, select=select))
    assert load_file(out / "weights.safetensors")["count"].item() == kept


def test_the_score_is_the_fraction_of_labels_found(spy, tiny_spec):
    spy.good = (0,)  # two zeros in every image
    val = tiny_arrays(6, seed=1)
    zeros = (val["labels"] == 0).sum()
    assert training.validate(spy, val, tiny_spec(), CPU) == pytest.approx(zeros / 12)
    spy.good = ()
    assert training.validate(spy, val, tiny_spec(), CPU) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_score_of_a_reconstruction_is_its_error(tiny_spec, dtype):
    class Gray(Spy):
        def predict(self, images):
            one = Prediction(torch.ones(0, 4), torch.ones(0), reconstruction=torch.ones(1, 2, 2))
            return [one] * len(images)

    spec = tiny_spec()
    task = spec.task.__class__("reconstruction", (1, 2, 2), 1, 0, 8.0)
    white = 255 if dtype == np.uint8 else 1
    val = {"images": np.zeros((4, 1, 2, 2), dtype)}
    val["images"][0] = white  # right in one image of four
    score = training.validate(Gray(), val, spec.model_copy(update={"task": task}), CPU)
    assert score == pytest.approx(-math.sqrt(0.75))


# failures


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run(spy, spy_spec, run, tmp_path, monkeypatch, value):
    stop_at(monkeypatch, 3, lambda: setattr(spy, "loss", value), owner=Spy)
    with pytest.raises(ValueError, match=f"^loss is {value} at step 3: training has diver") as info:
        run(spy_spec())
    assert "\n" not in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_are_not_finite_are_never_kept(spy, spy_spec, run, tmp_path, monkeypatch):
    def poison():
        spy.count.data.fill_(math.nan)

    stop_at(monkeypatch, 12, poison, owner=Spy)  # the last loss is still finite
    with pytest.raises(ValueError, match="the sum of weights is nan at step 12"):
        run(spy_spec())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_heatmap_that_diverges_ends_the_run(tiny_spec, run):
    with pytest.raises(ValueError, match="training has diverged") as info:
        run(tiny_spec(params={"lr_detector": 1e30}, warmup=0))
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
        patch.setattr("mist_bench.runlog.shutil.copyfile", half_file)
    if name == "train.csv":
        patch.setattr("mist_bench.runlog.RunLog.write", half_table)


@pytest.mark.parametrize("name", ["train.csv", "weights.safetensors", "config.json", "run.json"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_no_half_written_run(
    tiny_spec, run, tmp_path, monkeypatch, name, earlier
):
    """A run that was there stays as it was, and the next attempt has nothing to train."""
    out = tmp_path / "out"
    if earlier:
        run(tiny_spec(seed=5), work=tmp_path / "earlier")
    before = {path.name: path.read_bytes() for path in out.glob("*")}
    with monkeypatch.context() as patch:
        fill_disk(patch, name)
        with pytest.raises(OSError, match="No space left"):
            run(tiny_spec())
    assert {path.name: path.read_bytes() for path in out.glob("*")} == before
    stop_at(monkeypatch, 1, kill_hard)
    assert {path.name for path in run(tiny_spec()).iterdir()} == FILES


# stopping and going on


@pytest.mark.parametrize("method", ["mist", "channelwise", "supervised"])
@pytest.mark.parametrize(
    ("step", "act", "error"),
    [(7, send(signal.SIGTERM), Interrupted), (8, kill_hard, Killed), (2, kill_hard, Killed)],
    ids=["terminated", "killed", "killed before the first checkpoint"],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    tiny_spec, run, tmp_path, monkeypatch, method, step, act, error
):
    spec = tiny_spec(method)
    whole = run(spec, "whole")
    module = sys.modules[spec.module]
    owner = {"mist": "Mist", "channelwise": "ChannelWise", "supervised": "Supervised"}[method]
    with monkeypatch.context() as patch:
        stop_at(patch, step, act, owner=getattr(module, owner))
        with pytest.raises(error):
            run(spec, "stopped")
    out = tmp_path / "stopped"
    assert list(out.iterdir()) == []
    steps = []
    original = training.check_finite
    monkeypatch.setattr(
        training, "check_finite", lambda values, at: steps.append(at) or original(values, at)
    )
    run(spec, "stopped")
    same_results(whole, out)
    # a signal stores the step it came in; after a kill the last checkpoint counts (every 5 steps)
    assert min(steps) == {7: 8, 8: 6, 2: 1}[step]
    assert json.loads((out / "run.json").read_text())["resumed"] == (step != 2)


def test_a_run_may_be_stopped_again_and_again(tiny_spec, run, tmp_path, monkeypatch):
    spec = tiny_spec(checkpoint_every=2)
    whole = run(spec, "whole")
    stops = [(1, send(signal.SIGTERM)), (4, kill_hard), (2, send(signal.SIGINT)), (3, kill_hard)]
    for step, act in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, step, act)
            with pytest.raises((Interrupted, Killed)):
                run(spec, "stopped")
    same_results(whole, run(spec, "stopped"))
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["resumed"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_validation_is_kept_for_its_end(
    tiny_spec, run, monkeypatch, tmp_path, number
):
    spec = tiny_spec()
    whole = run(spec, "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 1, send(number), name="predict")
        with pytest.raises(Interrupted, match="stopped after step 6 of 12; the same command"):
            run(spec, "stopped")
    info = json.loads((tmp_path / "stopped-work" / "checkpoint" / "state.json").read_text())
    assert info["step"] == 6
    assert [row["step"] for row in info["val"]] == [6]
    same_results(whole, run(spec, "stopped"))


def test_a_signal_between_two_questions_never_loses_a_step(tiny_spec, run, tmp_path, monkeypatch):
    """The flag is read once per step: what is stored and what is said agree."""
    answers = iter([False, False, True, False, True])
    monkeypatch.setattr(training.StopSignal, "requested", lambda self: next(answers))
    with pytest.raises(Interrupted, match="stopped after step 3 of 12"):
        run(tiny_spec())
    info = json.loads((tmp_path / "out-work" / "checkpoint" / "state.json").read_text())
    assert info["step"] == 3


def test_a_signal_in_the_last_step_does_not_stop_a_finished_run(tiny_spec, run, monkeypatch):
    stop_at(monkeypatch, 12, send(signal.SIGTERM))
    assert {path.name for path in run(tiny_spec()).iterdir()} == FILES


def test_the_best_weights_survive_a_kill(spy, spy_spec, run, monkeypatch):
    spy.good = (4,)
    spec = spy_spec(validate_every=2, select="best")
    with monkeypatch.context() as patch:
        stop_at(patch, 9, kill_hard, owner=Spy)
        with pytest.raises(Killed):
            run(spec)
    out = run(spec)
    assert load_file(out / "weights.safetensors")["count"].item() == 4
    assert [float(row["score"]) > 0 for row in curves(out)["val"]] == [False, True, *[False] * 4]


def test_the_death_of_the_parent_stops_a_run(tiny_spec, run, monkeypatch):
    parent = os.getppid()
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: patch.setattr(training.os, "getppid", lambda: parent + 1))
        with pytest.raises(Interrupted, match="after step 4 of 12"):
            run(tiny_spec())


def test_signal_handlers_are_given_back(tiny_spec, run):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run(tiny_spec(steps=1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_finished_run_is_not_trained_again(tiny_spec, run, monkeypatch):
    first = run(tiny_spec(), "first")
    weights = (first / "weights.safetensors").read_bytes()
    for path in first.iterdir():
        path.unlink()
    stop_at(monkeypatch, 1, kill_hard)
    assert (run(tiny_spec(), "first") / "weights.safetensors").read_bytes() == weights


# checkpoints of others


@pytest.fixture
def stopped(tiny_spec, run, tmp_path, monkeypatch):
    """The work folder of a run that was stopped after step 7."""
    with monkeypatch.context() as patch:
        stop_at(patch, 7, send(signal.SIGTERM))
        with pytest.raises(Interrupted):
            run(tiny_spec())
    return tmp_path / "out-work"


@pytest.mark.parametrize("change", ["seed", "params", "training", "code", "data"])
def test_a_checkpoint_of_another_run_is_refused(tiny_spec, run, stopped, tmp_path, change):
    spec, options = tiny_spec(), {}
    if change == "seed":
        spec = tiny_spec(seed=1)
    elif change == "params":
        spec = tiny_spec(params={"lr_task": 0.5})
    elif change == "training":
        spec = tiny_spec(steps=13)
    elif change == "code":
        options["code"] = {"mist_bench.mist:Mist": "1" * 16}
    else:
        options["data"] = changed_data(run, tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another config, code or data") as info:
        run(spec, work=stopped, **options)
    assert str(stopped) in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def changed_data(run, tmp_path):
    from mist_bench.datasets.files import Split, save_manifest, save_split

    folder = tmp_path / "other"
    folder.mkdir()
    entries = {
        name: save_split(folder, name, Split(tiny_arrays(20, seed=9), "shapes"))
        for name in ("train", "val", "test")
    }
    save_manifest(folder, {"name": "tiny", "splits": entries})
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("state.safetensors", truncate),
        ("state.safetensors", lambda path: path.unlink()),
        ("state.json", truncate),
        ("state.json", lambda path: path.write_text("")),
        ("state.json", lambda path: path.write_text("{}")),
        ("state.json", lambda path: path.write_text("[]")),
        ("state.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_checkpoint_is_refused(tiny_spec, run, stopped, name, harm):
    harm(stopped / "checkpoint" / name)
    with pytest.raises(ValueError, match=r"damaged checkpoint .* delete .* to start over") as info:
        run(tiny_spec())
    assert str(stopped) in str(info.value)
    assert "\n" not in str(info.value)


def test_a_trainer_locks_its_folder_stops_on_a_signal_and_logs_plainly(
    tiny_spec, tiny_dataset, tmp_path
):
    """The real thing: a process of its own, with colors asked for, its stderr in a file."""
    spec = tiny_spec(steps=10**6, validate_every=10**6)
    command = [sys.executable, "-m", "mist_bench.cli", "train", "--spec", canonical(spec)]
    command += ["--manifest", str(tiny_dataset / "manifest.json"), "--device", "cpu"]
    command += ["--record", str(tmp_path / "out" / "run.json"), "--work", str(tmp_path / "work")]
    log = tmp_path / "train.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "FORCE_COLOR": "1"}
        )
    try:
        deadline = time.monotonic() + 60
        while b"train step" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (work,) = (tmp_path / "work").iterdir()
        with pytest.raises(ValueError, match=f"^{work}: another process is training this run$"):
            train(spec, tiny_dataset, tmp_path / "other", work, "cpu", CODE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    assert "the same command goes on from there" in lines[-1]
    control = {character for character in log.read_text() if not character.isprintable()}
    assert control == {"\n"}
    assert (work / "checkpoint" / "state.json").is_file()
    assert list((tmp_path / "out").iterdir()) == []
