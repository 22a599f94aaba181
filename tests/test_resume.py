"""A run that is stopped, killed or cut off goes on to the same result, or says why it cannot."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import tiny_arrays
from safetensors.torch import load_file
from spies import CODE, FILES, Killed, Spy, curves, kill_hard, same_results, send, stop_at

from mist_bench.config.resolve import canonical
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.run import record as runlog
from mist_bench.run import training
from mist_bench.run.training import Interrupted, train


@pytest.mark.parametrize("method", ["mist", "channelwise", "supervised"])
@pytest.mark.parametrize(
    ("step", "act", "error"),
    [(7, send(signal.SIGTERM), Interrupted), (8, kill_hard, Killed), (2, kill_hard, Killed)],
    ids=["terminated", "killed", "killed before the first checkpoint"],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    tiny_spec, train_tiny, tmp_path, monkeypatch, method, step, act, error
):
    spec = tiny_spec(method)
    whole = train_tiny(spec, "whole")
    module = sys.modules[spec.module]
    owner = {"mist": "Mist", "channelwise": "ChannelWise", "supervised": "Supervised"}[method]
    with monkeypatch.context() as patch:
        stop_at(patch, step, act, owner=getattr(module, owner))
        with pytest.raises(error):
            train_tiny(spec, "stopped")
    out = tmp_path / "stopped"
    assert list(out.iterdir()) == []
    steps = []
    original = runlog.check_finite
    monkeypatch.setattr(
        runlog, "check_finite", lambda values, at: steps.append(at) or original(values, at)
    )
    train_tiny(spec, "stopped")
    same_results(whole, out)
    # a signal stores the step it came in; after a kill the last checkpoint counts (every 5 steps)
    assert min(steps) == {7: 8, 8: 6, 2: 1}[step]
    assert json.loads((out / "run.json").read_text())["resumed"] == (step != 2)


def test_a_run_may_be_stopped_again_and_again(tiny_spec, train_tiny, tmp_path, monkeypatch):
    spec = tiny_spec(checkpoint_every=2)
    whole = train_tiny(spec, "whole")
    stops = [(1, send(signal.SIGTERM)), (4, kill_hard), (2, send(signal.SIGINT)), (3, kill_hard)]
    for step, act in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, step, act)
            with pytest.raises((Interrupted, Killed)):
                train_tiny(spec, "stopped")
    same_results(whole, train_tiny(spec, "stopped"))
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["resumed"] == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_validation_is_kept_for_its_end(
    tiny_spec, train_tiny, monkeypatch, tmp_path, number
):
    spec = tiny_spec()
    whole = train_tiny(spec, "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 4, send(number), name="predict")  # after looks at steps 1, 2, 5
        with pytest.raises(Interrupted, match="stopped after step 6 of 12; the same command"):
            train_tiny(spec, "stopped")
    info = json.loads((tmp_path / "stopped-work" / "checkpoint" / "state.json").read_text())
    assert info["step"] == 6
    assert [row["step"] for row in info["val"]] == [6]
    same_results(whole, train_tiny(spec, "stopped"))


def test_a_signal_between_two_questions_never_loses_a_step(
    tiny_spec, train_tiny, tmp_path, monkeypatch
):
    """The flag is read once per step: what is stored and what is said agree."""
    answers = iter([False, False, True, False, True])
    monkeypatch.setattr(training.StopSignal, "requested", lambda self: next(answers))
    with pytest.raises(Interrupted, match="stopped after step 3 of 12"):
        train_tiny(tiny_spec())
    info = json.loads((tmp_path / "out-work" / "checkpoint" / "state.json").read_text())
    assert info["step"] == 3


def test_a_signal_in_the_last_step_does_not_stop_a_finished_run(tiny_spec, train_tiny, monkeypatch):
    stop_at(monkeypatch, 12, send(signal.SIGTERM))
    assert {path.name for path in train_tiny(tiny_spec()).iterdir()} == FILES


def test_the_best_weights_survive_a_kill(spy, spy_spec, train_tiny, monkeypatch):
    spy.good = (4,)
    spec = spy_spec(validate_every=2, select="best")
    with monkeypatch.context() as patch:
        stop_at(patch, 9, kill_hard, owner=Spy)
        with pytest.raises(Killed):
            train_tiny(spec)
    out = train_tiny(spec)
    assert load_file(out / "weights.safetensors")["count"].item() == 4
    assert [float(row["score"]) > 0 for row in curves(out)["val"]] == [False, True, *[False] * 4]


def test_the_death_of_the_parent_stops_a_run(tiny_spec, train_tiny, monkeypatch):
    parent = os.getppid()
    with monkeypatch.context() as patch:
        stop_at(patch, 4, lambda: patch.setattr(training.os, "getppid", lambda: parent + 1))
        with pytest.raises(Interrupted, match="after step 4 of 12"):
            train_tiny(tiny_spec())


def test_signal_handlers_are_given_back(tiny_spec, train_tiny):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    train_tiny(tiny_spec(steps=1))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_finished_run_is_not_trained_again(tiny_spec, train_tiny, monkeypatch):
    first = train_tiny(tiny_spec(), "first")
    weights = (first / "weights.safetensors").read_bytes()
    for path in first.iterdir():
        path.unlink()
    stop_at(monkeypatch, 1, kill_hard)
    assert (train_tiny(tiny_spec(), "first") / "weights.safetensors").read_bytes() == weights


@pytest.fixture
def stopped(tiny_spec, train_tiny, tmp_path, monkeypatch):
    """The work folder of a run that was stopped after step 7."""
    with monkeypatch.context() as patch:
        stop_at(patch, 7, send(signal.SIGTERM))
        with pytest.raises(Interrupted):
            train_tiny(tiny_spec())
    return tmp_path / "out-work"


@pytest.mark.parametrize("change", ["seed", "params", "training", "code", "data"])
def test_a_checkpoint_of_another_run_is_refused(tiny_spec, train_tiny, stopped, tmp_path, change):
    spec, options = tiny_spec(), {}
    if change == "seed":
        spec = tiny_spec(seed=1)
    elif change == "params":
        spec = tiny_spec(params={"adam": {"lr_task": 0.5}})
    elif change == "training":
        spec = tiny_spec(steps=13)
    elif change == "code":
        options["code"] = {"mist_bench.mist:Mist": "1" * 16}
    else:
        options["data"] = changed_data(train_tiny, tmp_path)
    with pytest.raises(ValueError, match="checkpoint of another config, code, data") as info:
        train_tiny(spec, work=stopped, **options)
    assert str(stopped) in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def changed_data(train_tiny, tmp_path):
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
        ("state.json", lambda path: path.write_text(path.read_text().replace("param_g", "g"))),
        ("state.json", lambda path: path.unlink()),
    ],
)
def test_a_damaged_checkpoint_is_refused(tiny_spec, train_tiny, stopped, name, harm):
    harm(stopped / "checkpoint" / name)
    with pytest.raises(ValueError, match=r"damaged checkpoint .* delete .* to start over") as info:
        train_tiny(tiny_spec())
    assert str(stopped) in str(info.value)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    "harm", [truncate, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
def test_damaged_weights_are_not_published(tiny_spec, train_tiny, tmp_path, harm):
    spec, work = tiny_spec(steps=1), tmp_path / "out-work"
    for path in train_tiny(spec).iterdir():
        path.unlink()
    harm(work / "kept.safetensors")
    with pytest.raises(ValueError, match=r"damaged weights .* delete .* to start over") as info:
        train_tiny(spec)
    assert f"delete {work} to" in str(info.value)
    assert "\n" not in str(info.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_trainer_locks_its_folder_stops_on_a_signal_and_logs_plainly(
    tiny_spec, tiny_dataset, tmp_path
):
    """The real thing: a process of its own, with colors asked for, its stderr in a file."""
    spec = tiny_spec(steps=10**6, validate_every=10**6)
    command = [sys.executable, "-m", "mist_bench.cli.main", "train", "--spec", canonical(spec)]
    command += ["--manifest", str(tiny_dataset / "manifest.json"), "--device", "cpu"]
    command += ["--record", str(tmp_path / "out" / "run.json"), "--work", str(tmp_path / "work")]
    log = tmp_path / "train.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, "FORCE_COLOR": "1"}
        )
    try:
        while b"train step" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        (work,) = (tmp_path / "work").iterdir()
        with pytest.raises(ValueError, match=f"^{work}: another process is training this run$"):
            train(spec, tiny_dataset, tmp_path / "other", work, "cpu", CODE)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75
    finally:
        process.kill()
        process.wait()
    lines = log.read_text().splitlines()
    assert "the same command goes on from there" in lines[-1]
    control = {character for character in log.read_text() if not character.isprintable()}
    assert control == {"\n"}
    assert (work / "checkpoint" / "state.json").is_file()
    assert list((tmp_path / "out").iterdir()) == []
