"""The supervised bound: it learns at the true boxes and predicts at its own."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_arrays

from mist_bench.baselines.supervised import check
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method

CPU = torch.device("cpu")


def batch_of(size, **arrays):
    return make_batch({**tiny_arrays(10, seed=0), **arrays}, list(range(size)), "boxes", CPU)


@pytest.fixture
def supervised(tiny_spec):
    """A function that returns the method with some of its parameters changed."""
    return lambda seed=0, **params: build_method(tiny_spec("supervised", seed, params), CPU)


def noted(monkeypatch, owner, name):
    """Return the list to which the arguments of ``owner.name`` are added."""
    calls, function = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *a: calls.append(a) or function(*a))
    return calls


def test_both_networks_are_trained_at_the_true_boxes(supervised, monkeypatch):
    method, batch = supervised(mirror=False).train(), batch_of(4)
    classifier = noted(monkeypatch, method.classifier, "forward")
    detector = noted(monkeypatch, method.detector, "loss")
    assert set(method.train_step(batch)) == {"loss", "heatmap_loss", "offset_loss"}
    truth = torch.stack(batch.boxes)
    assert classifier[0][1].equal(truth)
    assert detector[0][2].equal(truth)


def test_reflected_images_have_reflected_targets(supervised, monkeypatch):
    method, batch = supervised(mirror=True).train(), batch_of(8)
    seen = noted(monkeypatch, method.detector.network, "forward")
    targets = noted(monkeypatch, method.detector, "loss")
    torch.manual_seed(0)
    method.train_step(batch)
    images, boxes = seen[0][0], targets[0][2]
    assert not images.equal(batch.images)
    for image, centers in zip(images, boxes[..., :2], strict=True):
        for x, y in centers.tolist():  # the shapes are symmetric around their centers
            left, top = round(x - 3.5), round(y - 3.5)
            patch = image[0, top : top + 8, left : left + 8]
            assert patch.sum() > 0
            assert patch.equal(patch.flip(0).flip(1))


@pytest.mark.parametrize(("frozen", "moving"), [("task", "detector"), ("detector", "task")])
def test_each_loss_changes_its_own_network(supervised, frozen, moving):
    method = supervised(adam={f"lr_{frozen}": 0}).train()
    parts = {"task": method.classifier, "detector": method.detector}
    before = {name: [p.detach().clone() for p in m.parameters()] for name, m in parts.items()}
    method.train_step(batch_of(4))
    same = {
        name: all(p.equal(q) for p, q in zip(m.parameters(), before[name], strict=True))
        for name, m in parts.items()
    }
    assert same == {frozen: True, moving: False}


def test_the_losses_fall_on_a_few_images(supervised):
    rates = {"lr_detector": 1e-2, "lr_task": 1e-2}
    method, batch = supervised(classifier={"channels": 8}, adam=rates).train(), batch_of(8)
    torch.manual_seed(0)
    rows = [method.train_step(batch) for _ in range(50)]
    for name in ("loss", "heatmap_loss"):
        losses = torch.tensor([row[name] for row in rows])
        assert losses[-5:].mean() < 0.5 * losses[:5].mean()


def test_different_numbers_of_instances_are_refused(supervised):
    with pytest.raises(ValueError, match="equally many instances in every image"):
        supervised().train_step(batch_of(3, counts=torch.tensor([2, 1, 2]).numpy()))


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="classification only, not reconstruction"):
        check(replace(TINY, kind="reconstruction"))


def test_predictions_are_at_detections(supervised, monkeypatch):
    method = supervised().eval()
    classifier = noted(monkeypatch, method.classifier, "forward")
    predictions = method.predict(batch_of(3).images)
    assert torch.stack([one.boxes for one in predictions]).equal(classifier[0][1])
    for one in predictions:
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
