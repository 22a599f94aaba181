"""Training steps beside each other: counted by hand, then in real processes."""

import csv
import os

import pytest
import torch

from mist_bench.bench import sharing, timing
from mist_bench.bench.runner import run
from mist_bench.bench.sharing import Worker, sharing_rows, train_for


def test_the_steps_of_all_are_compared_with_those_of_one():
    turns = {1: [[(10, 2.0, 1.5)], [(12, 2.0, 1.5)]], 2: [[(8, 2.0, 1.0), (6, 3.0, 1.0)]] * 2}
    found = {(row.stage, row.quantity): row for row in sharing_rows(turns)}
    assert found["1 at once", "step_rate_of_all"].value == 5.5  # of 5 and 6
    assert found["2 at once", "step_rate_of_all"].value == 6  # 8 / 2 + 6 / 3
    assert found["1 at once", "ratio"].value == 1
    assert found["2 at once", "ratio"].value == pytest.approx((6 / 5 + 6 / 6) / 2)
    assert found["2 at once", "wall_time"].most == 0.5
    assert found["2 at once", "cpu_time"].least == 0.125
    assert found["2 at once", "step_rate"].n == 4


def test_scalars_are_read_as_often_as_in_training_and_at_the_end(clock, monkeypatch):
    lengths, read = [], sharing.read
    monkeypatch.setattr(sharing, "time", timing.time)  # the clock that stands still
    monkeypatch.setattr(sharing, "read", lambda rows: lengths.append(len(rows)) or read(rows))

    def step():
        clock[0] += 1
        return {"loss": torch.zeros(())}

    monkeypatch.setattr(Worker, "step", step, raising=False)
    monkeypatch.setattr(Worker, "log_every", 2, raising=False)
    assert train_for(5) == (5, 5, 2.5)
    assert lengths == [2, 2, 1]


def die(seconds):
    os._exit(1)


@pytest.fixture
def options(monkeypatch, torch_settings):
    monkeypatch.setattr(sharing, "SECONDS", 0.05)
    monkeypatch.setattr(sharing, "ROUNDS", 1)
    names = {"preset": "smoke", "experiment": "mnist_hard_classification", "method": "mist"}
    return {**names, "device": "cpu", "runs": [1, 2]}


def test_a_process_that_has_died_is_noticed(options, monkeypatch):
    monkeypatch.setattr(sharing, "train_for", die)
    with pytest.raises(ValueError, match="a training process has died"):
        sharing.bench_sharing(**options | {"runs": [1]})


def test_processes_train_beside_each_other(tmp_path, options):
    run("sharing", tmp_path, **options)
    with (tmp_path / "sharing.csv").open() as file:
        stored = {(r["stage"], r["quantity"]): float(r["value"]) for r in csv.DictReader(file)}
    assert {stage for stage, _ in stored} == {"1 at once", "2 at once"}
    assert stored["2 at once", "step_rate_of_all"] > stored["2 at once", "step_rate"] > 0
    assert (tmp_path / "sharing.png").stat().st_size > 1000
