"""Memory against the number of locations: what is kept, what is skipped, and the files."""

import csv
import json

import pytest
import torch
from conftest import TINY

from mist_bench.baselines.parts.masks import soft_top_k
from mist_bench.baselines.soft_topk import masked_loss
from mist_bench.bench import memory
from mist_bench.bench.memory import Scene, grow
from mist_bench.bench.runner import run
from mist_bench.models.heads import build_classifier
from mist_bench.models.specs import ClassifierSpec

pytestmark = pytest.mark.usefixtures("torch_settings")


@pytest.fixture
def scene():
    head = build_classifier(1, 3, ClassifierSpec(channels=2, patch_size=8, window=0))
    return Scene(TINY, head, nms_kernel=1, epsilon=0.1)


def patches_of(scene, call):
    """Return how many patches a call classifies."""
    seen = []
    scene.head.network.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    call()
    return seen


def test_a_mask_over_patches_classifies_all_and_a_selection_k(scene):
    assert patches_of(scene, lambda: scene.masked_patches(soft_top_k, 5)) == [25]
    assert patches_of(scene, lambda: scene.selected_patches(5))[-1] == 2


def test_the_masked_loss_is_xie20s(scene):
    scores, probs = torch.rand(1, 16), torch.rand(1, 16, 3).softmax(-1)
    mask = soft_top_k(scores, 2, epsilon=0.1)
    wanted = masked_loss(probs.transpose(1, 2), mask, torch.full((1, 3), 1 / 3), 2)
    torch.testing.assert_close(scene.masked_loss(soft_top_k, scores, probs), wanted[0])


def test_memory_is_that_of_forward_and_back(scene, monkeypatch):
    gradients = []
    original = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: gradients.append(original(loss)))
    scene.selected_patches(5)
    scene.masked_locations(soft_top_k, 5)
    scene.masked_patches(soft_top_k, 5)
    assert len(gradients) == 3


def test_a_point_that_needs_too_much_is_skipped(monkeypatch):
    sides = []

    def memory_growth(run):
        run()
        return float(sides[-1] ** 2)  # MiB: one a location

    monkeypatch.setattr(memory, "memory_growth", memory_growth)
    monkeypatch.setattr(memory, "SIDES", (2, 4, 8))
    monkeypatch.setattr(memory, "LIMIT", 40)
    points = grow("mask", lambda side: sides.append(side) or 4)
    assert [(point.size, point.value) for point in points] == [(4, 1), (16, 4), (64, None)]
    assert points[2].status == "skipped: 64 MiB predicted, limit 40 MiB"
    assert sides == [2, 2, 4]  # the first once to warm up


def test_a_system_that_cannot_say_is_an_error(monkeypatch):
    monkeypatch.setattr(memory, "memory_growth", lambda run: None)
    with pytest.raises(ValueError, match="use Linux"):
        grow("mask", lambda side: 1)


def test_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "memory_growth", lambda run: run() or 8.0)
    monkeypatch.setattr(memory, "SIDES", (4, 5))
    run("memory", tmp_path, preset="smoke")
    with (tmp_path / "memory.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["quantity"] == "memory"]
    assert {row["operation"] for row in measured} == {
        *("MIST: K patches", "exact mask", "Sinkhorn mask"),
        *("exact mask, N patches", "Sinkhorn mask, N patches"),
    }
    assert {(row["axis"], row["size"]) for row in measured} == {
        ("locations", "16"),
        ("locations", "25"),
    }
    values = {row["operation"]: float(row["value"]) for row in measured}
    assert values["MIST: K patches"] == 8  # a call on one image
    assert values["exact mask"] == 8 / memory.IMAGES
    assert json.loads((tmp_path / "memory.json").read_text())["spec"]["preset"] == "smoke"
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
