"""When the loop reads what a step returns: seldom, in order, and before anything is stored."""

import json
import math
import signal

import pytest
import torch
from spies import Killed, Spy, curves, kill_hard, same_results, send, stop_at

from mist_bench.run import record as runlog
from mist_bench.run.training import Interrupted

LOSSES = [1 / 3, 0.1, 2e-9, 7.7, 1e30, -1e30, 0.2, 1 / 7, 3.0, 5e-5, 0.0, 1.1]


@pytest.fixture
def of_steps(spy, monkeypatch):
    """A function that sets the loss of every step, from 1; beyond them it is 0."""

    def set_losses(losses, as_tensor=True):
        def train_step(self, batch):
            original(self, batch)
            number = len(self.batches)
            value = torch.tensor(losses.get(number, 0.0))
            return {"loss": value if as_tensor else value.item()}

        monkeypatch.setattr(Spy, "train_step", train_step)

    original = Spy.train_step
    return set_losses


@pytest.mark.parametrize(
    ("bad", "noticed", "stored"),
    [(4, 5, None), (5, 5, None), (7, 9, 5), (9, 9, 5), (10, 10, 5), (11, 12, 10), (12, 12, 10)],
)
def test_the_first_loss_that_is_not_finite_is_named_before_anything_is_stored(
    of_steps, spy, spy_spec, train_tiny, tmp_path, bad, noticed, stored
):
    """Of 12 steps, 5 and 10 are stored, 12 is validated, 9 is a row."""
    of_steps({bad: math.nan, bad + 1: math.inf})
    spec = spy_spec(log_every=9, checkpoint_every=5, validate_every=12)
    with pytest.raises(ValueError, match=f"^loss is nan at step {bad}: training has diverged"):
        train_tiny(spec)
    assert len(spy.batches) == noticed
    state = tmp_path / "out-work" / "checkpoint" / "state.json"
    assert (json.loads(state.read_text())["step"] if state.exists() else None) == stored
    assert not (tmp_path / "out-work" / "kept.safetensors").exists()


def test_a_loss_that_is_not_finite_is_named_when_the_run_is_stopped(
    of_steps, spy_spec, train_tiny, tmp_path, monkeypatch
):
    of_steps({2: math.inf})
    stop_at(monkeypatch, 3, send(signal.SIGTERM), owner=Spy)
    with pytest.raises(ValueError, match="loss is inf at step 2: training has diverged"):
        train_tiny(spy_spec(log_every=100))
    assert not (tmp_path / "out-work" / "checkpoint").exists()


def test_what_a_loss_that_is_not_finite_leads_to_does_not_hide_it(
    of_steps, spy_spec, train_tiny, monkeypatch
):
    def refuse():
        raise ValueError("the heatmap holds values that are not numbers")

    of_steps({2: math.nan})
    stop_at(monkeypatch, 3, refuse, owner=Spy)
    with pytest.raises(ValueError, match="loss is nan at step 2: training has diverged"):
        train_tiny(spy_spec(log_every=100))
    of_steps({})  # without such a loss, it says what it is
    stop_at(monkeypatch, 3, refuse, owner=Spy)
    with pytest.raises(ValueError, match="the heatmap holds values"):
        train_tiny(spy_spec(log_every=100), "other")


def test_numbers_are_read_when_a_row_a_checkpoint_or_a_validation_needs_them(
    of_steps, spy_spec, train_tiny, monkeypatch
):
    of_steps({})
    lengths, original = [], runlog.read
    monkeypatch.setattr(runlog, "read", lambda rows: lengths.append(len(rows)) or original(rows))
    train_tiny(spy_spec())  # rows every 3 steps, a checkpoint every 5, validation every 6
    assert [length for length in lengths if length] == [3, 2, 1, 3, 1, 2]


def test_tensors_and_numbers_give_the_same_curves(of_steps, spy, spy_spec, train_tiny):
    found = []
    for as_tensor in (True, False):
        spy.batches.clear()
        torch.nn.init.zeros_(spy.count)
        of_steps(dict(enumerate(LOSSES, 1)), as_tensor)
        found.append(train_tiny(spy_spec(), f"tensors {as_tensor}"))
    same_results(*found)
    # means of float32 numbers, added as float64 in their order
    singles = torch.tensor(LOSSES).tolist()
    means = [f"{sum(singles[i : i + 3]) / 3:.6g}" for i in range(0, 12, 3)]
    assert [row["loss"] for row in curves(found[0])["train"]] == means


def test_a_stop_in_the_middle_of_a_row_keeps_what_was_added(
    of_steps, spy_spec, train_tiny, tmp_path, monkeypatch
):
    of_steps(dict(enumerate(LOSSES, 1)))
    with monkeypatch.context() as patch:
        stop_at(patch, 7, send(signal.SIGTERM), owner=Spy)
        with pytest.raises(Interrupted):
            train_tiny(spy_spec(log_every=100))
    info = json.loads((tmp_path / "out-work" / "checkpoint" / "state.json").read_text())
    assert info["sums"] == {"loss": sum(torch.tensor(LOSSES[:7]).tolist()), "steps": 7}


def test_a_kill_between_two_readings_changes_nothing(tiny_spec, train_tiny, monkeypatch):
    spec = tiny_spec(log_every=12, checkpoint_every=4)
    whole = train_tiny(spec, "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 7, kill_hard)
        with pytest.raises(Killed):
            train_tiny(spec, "stopped")
    same_results(whole, train_tiny(spec, "stopped"))


def test_a_scalar_is_one_number_and_keeps_no_graph(spy, spy_spec, train_tiny, monkeypatch):
    weight = torch.ones((), requires_grad=True)
    held = []
    monkeypatch.setattr(Spy, "train_step", lambda self, batch: {"loss": 2 * weight})
    original = runlog.read
    monkeypatch.setattr(runlog, "read", lambda rows: held.extend(rows) or original(rows))
    train_tiny(spy_spec())
    assert held
    assert not any(row["loss"].requires_grad for row in held)
    monkeypatch.setattr(Spy, "train_step", lambda self, batch: {"loss": torch.ones(1)})
    with pytest.raises(ValueError, match=r"logged loss of shape \(1,\) at step 1; it must be one"):
        train_tiny(spy_spec(), "other")


def test_a_step_without_a_loss_is_refused(spy, spy_spec, train_tiny, monkeypatch):
    monkeypatch.setattr(Spy, "train_step", lambda self, batch: {"cost": 1.0})
    with pytest.raises(ValueError, match="train_step logged no loss at step 1"):
        train_tiny(spy_spec())


@pytest.mark.parametrize("name", ["supervision", "optimizers", "predict"])
def test_what_a_method_lacks_is_named(spy, spy_spec, train_tiny, monkeypatch, name):
    owner = Spy if hasattr(Spy, name) else spy
    monkeypatch.delattr(owner, name)
    with pytest.raises(ValueError, match=f"spy: Spy has no {name}, as types.Method asks for"):
        train_tiny(spy_spec())
