"""Tensors to a GPU without a wait, and numbers back from it in one piece."""

import numpy as np
import pytest
import torch
from conftest import tiny_arrays

from mist_bench.models.tensors import read, send, to_device
from mist_bench.run.batches import make_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """Return the notes of a stand-in for a GPU: what was pinned, and how it was sent."""
    notes, to = [], torch.Tensor.to

    def pin(tensor):
        notes.append("pin")
        return tensor

    def move(tensor, device=None, *arguments, **options):
        if device != CUDA:
            return to(tensor, device, *arguments, **options)
        notes.append(options)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", move)
    return notes


SENT = ["pin", {"non_blocking": True}]


def test_to_a_gpu_goes_pinned_memory_while_the_host_goes_on(gpu):
    to_device(torch.zeros(3), CUDA)
    assert gpu == SENT


def test_on_the_cpu_a_tensor_stays_where_it_is(gpu):
    tensor = torch.zeros(3)
    assert to_device(tensor, CPU) is tensor
    assert gpu == []


@pytest.mark.parametrize(("supervision", "transfers"), [("none", 1), ("labels", 2), ("boxes", 3)])
def test_a_batch_goes_to_a_gpu_in_one_transfer_a_kind(gpu, supervision, transfers):
    arrays = tiny_arrays(6, seed=0)
    batch = make_batch(arrays, np.arange(6), supervision, CUDA)
    assert gpu == SENT * transfers
    there = make_batch(arrays, np.arange(6), supervision, CPU)
    assert batch.images.equal(there.images)
    for name in ("labels", "boxes"):
        for one, other in zip(getattr(batch, name) or (), getattr(there, name) or (), strict=True):
            assert one.equal(other)


def test_what_is_sent_together_arrives_apart():
    boxes = [torch.rand(2, 4), torch.rand(0, 4), torch.rand(3, 4)]
    for one, other in zip(send(boxes, CPU), boxes, strict=True):
        assert one.equal(other)


def test_rows_are_read_as_they_are_and_in_their_order(monkeypatch):
    third = torch.tensor(1 / 3)
    rows = [{"loss": third, "shift": 0.1}, {"loss": third.double() / 7, "shift": 3}]
    transfers, tolist = [], torch.Tensor.tolist
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", lambda one: transfers.append(1) or tolist(one))
        patch.setattr(torch.Tensor, "item", None)
        found = read(rows)
    assert transfers == [1]
    assert found == [
        {"loss": third.item(), "shift": 0.1},
        {"loss": (third.double() / 7).item(), "shift": 3},
    ]
    assert [list(row) for row in found] == [["loss", "shift"]] * 2
    assert read([]) == []
    assert read([{"loss": 1.5}]) == [{"loss": 1.5}]
