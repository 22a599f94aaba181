"""What a run leaves to read, while it goes on and after restarts."""

import csv
import json
import logging
import sys

import pytest

from mist_bench.config.schema import Training
from mist_bench.run import record as runlog
from mist_bench.run.record import RunLog

BUDGET = Training(
    steps=10, batch_size=2, validate_every=5, checkpoint_every=5, log_every=4, warmup=0
)


def rows(folder, name):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def log_steps(log, first, last):
    with log:
        for step in range(first, last + 1):
            log.step(step, {"loss": float(step), "shift": 1.0})
            if step % 5 == 0:
                log.validation(step, step / 10)


def test_rows_are_means_over_the_steps_since_the_last(tmp_path):
    log = RunLog(tmp_path, {"step": 0}, BUDGET, "cpu")
    log_steps(log, 1, 10)
    log.write(tmp_path)
    found = [(row["step"], row["loss"], row["shift"]) for row in rows(tmp_path, "train")]
    assert found == [("4", "2.5", "1"), ("8", "6.5", "1"), ("10", "9.5", "1")]
    assert [(row["step"], row["score"]) for row in rows(tmp_path, "val")] == [
        ("5", "0.5"),
        ("10", "1"),
    ]


def test_a_restart_in_the_middle_of_a_row_changes_nothing(tmp_path):
    log = RunLog(tmp_path / "a", {"step": 0}, BUDGET, "cpu")
    log_steps(log, 1, 6)
    info = json.loads(json.dumps({"step": 6, **log.state()}))
    again = RunLog(tmp_path / "a", info, BUDGET, "cpu")
    log_steps(again, 7, 10)
    again.write(tmp_path)
    found = [(row["step"], row["loss"]) for row in rows(tmp_path, "train")]
    assert found == [("4", "2.5"), ("8", "6.5"), ("10", "9.5")]
    seconds = [float(row["seconds"]) for row in rows(tmp_path, "train")]
    assert seconds == sorted(seconds)
    assert again.cost()["resumed"] == 1
    assert again.cost()["seconds"] >= info["seconds"]
    assert again.cost()["cpu_seconds"] >= info["cpu_seconds"]


def test_the_peak_of_memory_is_the_highest_of_all_restarts(tmp_path, monkeypatch):
    peaks = iter([(900.0, 20.0), (300.0, 40.0)])
    monkeypatch.setattr(
        runlog, "peak_memory", lambda: dict(zip(runlog.PEAKS, next(peaks), strict=True))
    )
    log = RunLog(tmp_path, {"step": 0}, BUDGET, "cpu")
    info = json.loads(json.dumps({"step": 6, **log.state()}))
    cost = RunLog(tmp_path, info, BUDGET, "cpu").cost()
    assert (cost["peak_memory_mib"], cost["peak_gpu_memory_mib"]) == (900.0, 40.0)


def test_this_process_holds_some_memory():
    assert 10 < runlog.peak_memory()["peak_memory_mib"] < 10**6


@pytest.mark.parametrize(
    ("select", "expected"), [("best", [True, False, True]), ("last", [False] * 3)]
)
def test_the_best_score_is_the_first_of_equal_ones(tmp_path, select, expected):
    budget = BUDGET.model_copy(update={"select": select})
    with RunLog(tmp_path, {"step": 0}, budget, "cpu") as log:
        assert [log.validation(*one) for one in ((1, 0.5), (2, 0.5), (3, 0.75))] == expected


def test_the_best_score_survives_a_restart(tmp_path):
    budget = BUDGET.model_copy(update={"select": "best"})
    with RunLog(tmp_path, {"step": 0}, budget, "cpu") as log:
        log.validation(1, 0.5)
    with RunLog(tmp_path, {"step": 1, **log.state()}, budget, "cpu") as again:
        assert not again.validation(2, 0.25)
        assert again.validation(3, 0.625)


def test_progress_is_a_line_per_row(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="mist_bench"):
        log_steps(RunLog(tmp_path, {"step": 0}, BUDGET, "cpu"), 1, 5)
    assert [message.split(" seconds")[0] for message in caplog.messages] == [
        "starting: 10 steps of 2 images on cpu",
        "train step 4",
        "val step 5",
    ]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_bar_is_for_terminals_only(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setenv("FORCE_COLOR", "1")  # some CI machines set it for everything
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    log_steps(RunLog(tmp_path, {"step": 0}, BUDGET, "cpu"), 1, 10)
    assert ("10/10" in capsys.readouterr().err) == terminal


def test_tensorboard_shows_every_row_once_after_a_restart(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    budget = BUDGET.model_copy(update={"log_every": 2})
    with RunLog(tmp_path, {"step": 0}, budget, "cpu") as log:
        for step in range(1, 8):  # what follows the checkpoint at 4 is lost in a kill
            log.step(step, {"loss": float(step), "shift": 0.0})
            if step == 4:
                info = json.loads(json.dumps({"step": 4, **log.state()}))
    log_steps(RunLog(tmp_path, info, budget, "cpu"), 5, 10)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 8, 10]
    assert [event.step for event in events.Scalars("val/score")] == [5, 10]


def test_tensorboard_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log_steps(RunLog(tmp_path, {"step": 0}, BUDGET, "cpu"), 1, 10)
    assert not (tmp_path / "tensorboard").exists()


def test_the_commit_recorded_is_the_one_that_trained_and_each_after_a_restart(
    tmp_path, monkeypatch
):
    budget = Training(steps=4, batch_size=1, validate_every=2, checkpoint_every=2, log_every=2)
    monkeypatch.setattr("mist_bench.run.record.commit", lambda: "first")
    log = RunLog(tmp_path, {"step": 0}, budget, "cpu")
    monkeypatch.setattr("mist_bench.run.record.commit", lambda: "second")
    assert (log.commits, log.device) == (["first"], "cpu")
    again = RunLog(tmp_path, {"step": 2, **log.state()}, budget, "cpu")
    assert again.commits == ["first", "second"]


def test_a_method_that_logs_other_scalars_than_before_is_stopped_at_once(tmp_path):
    budget = Training(steps=4, batch_size=1, validate_every=2, checkpoint_every=2, log_every=2)
    with RunLog(tmp_path, {"step": 0}, budget, "cpu") as log:
        log.step(1, {"loss": 1.0})
        with pytest.raises(ValueError, match="logged extra, loss at step 2, but loss before"):
            log.step(2, {"loss": 1.0, "extra": 2.0})
