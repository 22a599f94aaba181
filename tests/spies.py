"""A method that takes notes, ways to stop a run at a given call, and a look at its curves."""

import csv
import os

import torch
from torch import nn

from mist_bench.mist import Mist
from mist_bench.types import Prediction

CODE = {"mist_bench.mist:Mist": "0" * 16}
FILES = {
    "config.json",
    "train.csv",
    "val.csv",
    "heatmaps.npz",
    "weights.safetensors",
    "run.json",
}


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
