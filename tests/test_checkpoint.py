"""Checkpoints: whole or not at all, whenever the process dies, and equal to what was stored."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from mist_bench.models.optimizers import adam
from mist_bench.models.specs import AdamSpec
from mist_bench.run import checkpoint


class Small(nn.Module):
    """A method with a convolution in channels-last order and two kinds of optimizers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.ones(()))
        self.optimizers = {
            "adam": adam(self.conv.parameters(), AdamSpec(lr=0.1, betas=(0.5, 0.9))),
            "sgd": torch.optim.SGD([*self.norm.parameters(), self.scale], lr=0.1, momentum=0.9),
        }

    def step(self):
        loss = self.scale * self.norm(self.conv(torch.rand(2, 4, 5, 5))).square().sum()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()


def small(steps=0):
    torch.manual_seed(0)
    method = Small()
    for _ in range(steps):
        method.step()
    return method


def test_a_restored_method_goes_on_alike(tmp_path):
    method, restored = small(steps=3), small()
    checkpoint.save(tmp_path, method, {"identity": "a", "step": 3, "rows": [{"loss": 0.1}]})
    method.step()
    torch.manual_seed(99)
    info = checkpoint.load(tmp_path, restored, "a")
    assert (info["step"], info["rows"]) == (3, [{"loss": 0.1}])
    restored.step()  # draws its input from torch's generator, which is restored too
    for name, value in method.state_dict().items():
        assert restored.state_dict()[name].equal(value), name


def test_moments_keep_the_memory_layout_of_their_weights(tmp_path):
    """Fused Adam reads weights, gradients and moments in the order in which they lie in memory."""
    method, restored = small(steps=1), small()
    checkpoint.save(tmp_path, method, {"identity": "a", "step": 1})
    checkpoint.load(tmp_path, restored, "a")
    found, wanted = (
        {
            (name, i, key): (value.stride(), value)
            for name, optimizer in one.optimizers.items()
            for i, entries in enumerate(optimizer.state.values())
            for key, value in entries.items()
        }
        for one in (restored, method)
    )
    assert wanted["adam", 0, "exp_avg"][0] == (36, 1, 12, 4)
    assert found.keys() == wanted.keys()
    for key, (stride, value) in wanted.items():
        assert found[key][0] == stride, key
        assert found[key][1].equal(value), key
    assert restored.conv.weight.stride() == method.conv.weight.stride()


def test_learning_rates_and_other_settings_are_restored(tmp_path):
    method, restored = small(steps=1), small()
    method.optimizers["adam"].param_groups[0].update(lr=0.025, initial_lr=0.1)
    checkpoint.save(tmp_path, method, {"identity": "a", "step": 1})
    checkpoint.load(tmp_path, restored, "a")
    group = restored.optimizers["adam"].param_groups[0]
    assert (group["lr"], group["initial_lr"], tuple(group["betas"])) == (0.025, 0.1, (0.5, 0.9))


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path):
    assert checkpoint.load(tmp_path, small(), "a") is None


def test_all_that_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    events, synced = [], []
    rename, sync = Path.rename, checkpoint.sync

    def renamed(path, target):
        events.append((path.name, set(synced)))
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "sync", lambda path: (synced.append(path.name), sync(path)))
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(Path, "replace", renamed)
    checkpoint.save(tmp_path, small(), {"identity": "a", "step": 1})
    checkpoint.save_weights(tmp_path / "kept.safetensors", small())
    (checkpointed, before), (kept, later) = events
    assert (checkpointed, kept) == ("checkpoint.new", "kept.new")
    assert before == {"state.safetensors", "state.json", "checkpoint.new"}
    assert later == before | {tmp_path.name, "kept.new"}


class Killed(BaseException):
    """Stands for kill -9."""


def die_at(monkeypatch, moment):
    """Die before the ``moment``-th change of the file system from now on."""
    calls = []

    def guarded(function):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == moment:
                raise Killed
            return function(*arguments, **options)

        return call

    for owner, name in (
        (Path, "rename"),
        (Path, "mkdir"),
        (Path, "write_text"),
        (shutil, "rmtree"),
        (checkpoint, "save_file"),
    ):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))
    return calls


@pytest.mark.parametrize("second", range(1, 9))
@pytest.mark.parametrize("first", range(1, 9))
def test_two_kills_in_a_row_never_lose_the_checkpoint(tmp_path, monkeypatch, first, second):
    """Whatever two moments the process dies at, the last whole checkpoint is still there."""
    checkpoint.save(tmp_path, small(steps=1), {"identity": "a", "step": 1})
    for moment in (first, second):
        with monkeypatch.context() as patch:
            calls = die_at(patch, moment)
            try:
                checkpoint.save(tmp_path, small(steps=2), {"identity": "a", "step": 2})
            except Killed:
                pass
            else:
                assert len(calls) < 8  # the last moment comes after all is done
        restored = small()
        info = checkpoint.load(tmp_path, restored, "a")
        assert info["step"] in (1, 2)
        expected = small(steps=info["step"])
        assert restored.conv.weight.equal(expected.conv.weight)
    checkpoint.save(tmp_path, small(steps=3), {"identity": "a", "step": 3})
    assert checkpoint.load(tmp_path, small(), "a")["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, small(steps=1), {"identity": "a", "step": 1})

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match=r"state.safetensors: cannot be written: .* No space"):
            checkpoint.save(tmp_path, small(steps=2), {"identity": "a", "step": 2})
        with pytest.raises(OSError, match=r"kept.new: cannot be written: .* No space"):
            checkpoint.save_weights(tmp_path / "kept.safetensors", small())
    assert checkpoint.load(tmp_path, small(), "a")["step"] == 1
    assert not list(tmp_path.glob("kept*"))
