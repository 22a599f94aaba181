"""MIST's three updates: what each changes, in which order, and the keypoint step by hand."""

import pytest
import torch
from conftest import tiny_arrays
from torch import nn

from mist_bench.models.heads import classification_loss, label_histogram
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.prediction import build_method
from mist_bench.training import make_batch
from mist_bench.types import TaskSpec

ORDERS = ("joint", "x_tau_eta", "tau_x_eta")
CPU = torch.device("cpu")


def batch_of(size):
    """The first ``size`` of ten images, with labels."""
    return make_batch(tiny_arrays(10, seed=0), list(range(size)), "labels", CPU)


@pytest.fixture
def tiny_mist(tiny_spec):
    """A function that returns MIST with some of its parameters changed."""
    return lambda seed=0, **params: build_method(tiny_spec("mist", seed, params), CPU).train()


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def changed(module, before):
    return any(not now.equal(old) for now, old in zip(module.parameters(), before, strict=True))


def inputs(method, batch):
    """The images, E_K(H(I)) and label histogram of a batch."""
    heatmap, offsets = method.detector(batch.images)
    boxes, _ = method.detector.extract(heatmap, offsets, 2)
    return batch.images, boxes, label_histogram(batch.labels, 3)


def test_the_task_step_changes_the_classifier_only(tiny_mist):
    method = tiny_mist()
    before = copies(method.head), copies(method.detector)
    method.update_task(*inputs(method, batch_of(4)))
    assert changed(method.head, before[0])
    assert not changed(method.detector, before[1])


def test_the_keypoint_step_changes_no_weights(tiny_mist):
    method = tiny_mist()
    images, start, labels = inputs(method, batch_of(4))
    before = copies(method)
    moved = method.update_keypoints(images, start, labels)
    assert not changed(method, before)
    assert not moved[..., :2].equal(start[..., :2])
    assert moved[..., 2:].equal(start[..., 2:])
    assert not moved.requires_grad


def test_the_heatmap_step_changes_the_detector_only(tiny_mist):
    # without learning rate for tau, all that changes weights is the last stage
    method = tiny_mist(lr_task=0.0)
    before = copies(method.head), copies(method.detector)
    method.train_step(batch_of(4))
    assert not changed(method.head, before[0])
    assert changed(method.detector, before[1])


class Recorder:
    """Wraps a method's stages and notes which ran, and the boxes they were given and returned."""

    def __init__(self, method, monkeypatch):
        self.calls = []
        for owner, name in (
            (method, "update_task"),
            (method, "update_keypoints"),
            (method.detector, "loss"),
        ):
            monkeypatch.setattr(owner, name, self.noting(name, getattr(owner, name)))

    def noting(self, name, function):
        def call(*arguments):
            result = function(*arguments)
            self.calls.append((name, arguments, result))
            return result

        return call

    @property
    def names(self):
        return [name for name, _, _ in self.calls]


@pytest.mark.parametrize(
    ("order", "stages"),
    [
        ("joint", ["update_task", "loss"]),
        ("x_tau_eta", ["update_keypoints", "update_task", "loss"]),
        ("tau_x_eta", ["update_task", "update_keypoints", "loss"]),
    ],
)
def test_the_stages_run_in_the_stated_order(tiny_mist, monkeypatch, order, stages):
    method = tiny_mist(order=order, mirror=False)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    assert calls.names == stages


def test_the_classifier_learns_at_the_moved_boxes_in_the_official_order(tiny_mist, monkeypatch):
    method = tiny_mist(order="x_tau_eta", mirror=False)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    (_, _, moved), (_, task, _), (_, eta, _) = calls.calls
    assert task[1].equal(moved)
    assert eta[2].equal(moved)


def test_the_classifier_learns_at_the_extracted_boxes_in_algorithm_1(tiny_mist, monkeypatch):
    method = tiny_mist(order="tau_x_eta", mirror=False)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch_of(4))
    (_, task, _), (_, keypoints, moved), (_, eta, _) = calls.calls
    assert task[1].equal(keypoints[1])
    assert eta[2].equal(moved)
    assert not moved.equal(task[1])


def test_the_joint_step_is_one_keypoint_step_before_the_classifier_moves(tiny_mist, monkeypatch):
    batch = batch_of(4)
    one, other = tiny_mist(mirror=False), tiny_mist(mirror=False)
    calls = Recorder(one, monkeypatch)
    one.train_step(batch)
    expected = other.update_keypoints(*inputs(other, batch))
    torch.testing.assert_close(calls.calls[-1][1][2], expected, atol=1e-4, rtol=1e-4)


def test_the_detector_learns_from_reflections_and_the_classifier_does_not(tiny_mist, monkeypatch):
    method, batch = tiny_mist(mirror=True), batch_of(8)
    seen = []
    forward = method.detector.network.forward
    monkeypatch.setattr(
        method.detector.network, "forward", lambda images: seen.append(images) or forward(images)
    )
    calls = Recorder(method, monkeypatch)
    torch.manual_seed(0)
    method.train_step(batch)
    (_, task, (_, grad)), (_, eta, _) = calls.calls
    flips = {
        axes
        for image, original in zip(seen[0], batch.images, strict=True)
        for axes in ((), (-1,), (-2,), (-1, -2))
        if image.equal(original.flip(axes))
    }
    assert len(flips) > 2
    assert task[0].equal(batch.images)
    moved = method.keypoints.move(task[1], task[1], grad)
    # boxes come back to the reflected image, one by one
    for i, (image, original) in enumerate(zip(seen[0], batch.images, strict=True)):
        x, y = moved[i, :, 0], moved[i, :, 1]
        options = [(x, y), (23 - x, y), (x, 23 - y), (23 - x, 23 - y)]
        kinds = [(), (-1,), (-2,), (-1, -2)]
        allowed = [
            torch.stack(option, -1)
            for option, axes in zip(options, kinds, strict=True)
            if image.equal(original.flip(axes))
        ]
        assert any(torch.allclose(eta[2][i, :, :2], option, atol=1e-4) for option in allowed)


def test_images_that_are_explained_weigh_more(tiny_mist, monkeypatch):
    """The gradient of the heatmap network is that of exp(-a L_task) ||G - H||^2."""
    method, batch = tiny_mist(mirror=False, sample_weight=5), batch_of(4)
    other = tiny_mist(mirror=False)
    calls = Recorder(method, monkeypatch)
    method.train_step(batch)
    (_, _, (task_loss, _)), (_, eta, _) = calls.calls
    heatmap, offsets = other.detector(batch.images)
    loss = other.detector.loss(heatmap, offsets, eta[2])
    (torch.exp(-5 * task_loss) * loss).mean().backward()
    found = [one.grad for one in method.detector.parameters()]
    wanted = [one.grad for one in other.detector.parameters()]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("lr", "clip", "penalty", "expected"),
    [
        (2.0, 100.0, 0.0, [10 - 6, 20 + 8]),  # plain descent
        (2.0, 5.0, 0.0, [10 - 3, 20 + 4]),  # the step of 10 px becomes one of 5 px
        (2.0, 10.0, 0.0, [10 - 6, 20 + 8]),  # just as long as allowed
        (2.0, 100.0, 0.25, [10 - 2 * (3 + 0.5 * 1), 20 - 2 * (-4 + 0.5 * -2)]),
        (0.0, 5.0, 0.0, [10, 20]),
    ],
)
def test_a_keypoint_step_by_hand(lr, clip, penalty, expected):
    boxes, start = torch.tensor([[[10.0, 20, 8, 8]]]), torch.tensor([[[9.0, 22, 8, 8]]])
    grad = torch.tensor([[[3.0, -4, 99, 99]]])
    moved = KeypointStep(lr, clip, steps=1, penalty=penalty).move(boxes, start, grad)
    torch.testing.assert_close(moved, torch.tensor([[[*expected, 8.0, 8.0]]]))


def test_a_box_without_gradient_stays():
    boxes = torch.tensor([[[10.0, 20, 8, 8]]])
    assert KeypointStep(3000, 3, 1, 0).move(boxes, boxes, torch.zeros(1, 1, 4)).equal(boxes)


def test_several_keypoint_steps_follow_each_other(tiny_mist):
    batch = batch_of(4)
    once = tiny_mist(order="x_tau_eta", keypoint_steps=1)
    twice = tiny_mist(order="x_tau_eta", keypoint_steps=2)
    images, start, labels = inputs(once, batch)
    moved = once.update_keypoints(images, once.update_keypoints(images, start, labels), labels)
    torch.testing.assert_close(twice.update_keypoints(images, start, labels), moved)


class Linear(nn.Module):
    """A classifier without batch statistics: smooth, in the precision it is given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 36, dtype=torch.float64))

    def forward(self, patches):
        return 3 * torch.tanh(patches.flatten(1) @ self.weight.T)


def smooth(method):
    """Give ``method`` a smooth classifier of 6 x 6 px patches in float64."""
    torch.manual_seed(0)
    method.head.network = Linear()
    method.head.patch_size = 6
    method.head.window = torch.ones(6, 6, dtype=torch.float64)
    return method


@pytest.mark.parametrize("size", [1, 4])
def test_the_keypoint_step_is_the_gradient_by_finite_differences(tiny_mist, size):
    method = smooth(tiny_mist(order="x_tau_eta", keypoint_lr=1.0, keypoint_clip=1e6))
    batch = batch_of(size)
    images = torch.nn.functional.avg_pool2d(batch.images.double(), 5, 1, 2)
    labels = label_histogram(batch.labels, 3).double()
    start = 5 + 14 * torch.rand(size, 2, 4, dtype=torch.float64)
    start[..., 2:] = 7.3
    step = start - method.update_keypoints(images, start, labels)

    def loss(boxes):
        return classification_loss(method.head(images, boxes), labels)

    for k in range(2):
        for axis in range(2):
            shift = torch.zeros_like(start)
            shift[:, k, axis] = 1e-6
            slope = (loss(start + shift) - loss(start - shift)) / 2e-6  # per image
            torch.testing.assert_close(step[:, k, axis], slope, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_the_keypoint_step_does_not_depend_on_the_batch_size(tiny_mist, monkeypatch, order):
    """Also in the joint order, whose loss is the mean of the batch."""
    moved = {}
    for size in (1, 4):
        method = tiny_mist(order=order, mirror=False, lr_task=0.0)
        method.head.eval()  # batch norm would let images see each other
        method.detector.eval()
        calls = Recorder(method, monkeypatch)
        method.train_step(batch_of(size))
        moved[size] = calls.calls[-1][1][2]
    torch.testing.assert_close(moved[4][:1], moved[1], atol=1e-3, rtol=1e-4)


def test_predictions_do_not_depend_on_the_batch(tiny_mist):
    method, batch = tiny_mist(), batch_of(6)
    for _ in range(3):
        method.train_step(batch)
    method.eval()
    together = method.predict(batch.images)
    shuffled = method.predict(batch.images.flip(0))[::-1]
    alone = [method.predict(image[None])[0] for image in batch.images]
    for one, two, three in zip(together, shuffled, alone, strict=True):
        for name in ("boxes", "scores", "probs"):
            for other in (two, three):
                torch.testing.assert_close(
                    getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4
                )


def test_the_losses_fall_on_a_few_images(tiny_mist):
    rates = {"lr_detector": 5e-3, "lr_task": 5e-3}
    method, batch = tiny_mist(seed=1, classifier_channels=8, **rates), batch_of(8)
    torch.manual_seed(0)
    rows = [method.train_step(batch) for _ in range(60)]
    assert set(rows[0]) == {"loss", "heatmap_loss", "keypoint_shift"}
    for name in ("loss", "heatmap_loss"):
        losses = torch.tensor([row[name] for row in rows])
        assert losses[-10:].mean() < 0.6 * losses[:10].mean()


def test_a_keypoint_moves_as_far_as_its_limit_or_not_at_all(tiny_mist):
    method = tiny_mist(order="x_tau_eta", keypoint_lr=1e9, keypoint_clip=2.0)
    images, start, labels = inputs(method, batch_of(8))
    shift = (method.update_keypoints(images, start, labels) - start)[..., :2].norm(dim=-1)
    empty = shift == 0  # a patch without ink pulls nowhere
    assert 0 < empty.sum() < 16
    torch.testing.assert_close(shift[~empty], torch.full_like(shift[~empty], 2.0))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"order": "eta_first"}, "order must be x_tau_eta, tau_x_eta or joint, got 'eta_first'"),
        ({"order": "joint", "keypoint_steps": 2}, "the joint order makes 1 keypoint step, got 2"),
    ],
)
def test_contradictory_parameters_are_refused(tiny_mist, params, words):
    with pytest.raises(ValueError, match=words):
        tiny_mist(**params)


def test_more_patches_than_cells_are_refused(tiny_spec):
    task = TaskSpec("classification", (1, 24, 24), 37, 3, 8.0)
    method = build_method(tiny_spec().model_copy(update={"task": task}), CPU)
    with pytest.raises(ValueError, match="cannot select 37 of 36 cells"):
        method.train_step(batch_of(2))
