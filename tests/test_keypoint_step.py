"""The keypoint step: by hand, against finite differences, apart from its batch, and cooling."""

import pytest
import torch
from test_mist import Recorder, batch_of, changed, copies, inputs
from torch import nn

from mist_bench.models.heads import classification_loss, label_histogram
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.specs import KeypointSpec
from mist_bench.run.method import build_method
from mist_bench.run.training import remember_learning_rates, scale_learning_rates

ORDERS = ("joint", "x_tau_eta", "tau_x_eta")


def test_the_keypoint_step_changes_no_weights(tiny_mist):
    method = tiny_mist()
    images, start, labels = inputs(method, batch_of(4))
    before = copies(method)
    moved = method.update_keypoints(images, start, labels)
    assert not changed(method, before)
    assert not moved[..., :2].equal(start[..., :2])
    assert moved[..., 2:].equal(start[..., 2:])
    assert not moved.requires_grad


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
    spec = KeypointSpec(lr=lr, clip=clip, penalty=penalty)
    moved = KeypointStep(spec).move(boxes, start, grad)
    torch.testing.assert_close(moved, torch.tensor([[[*expected, 8.0, 8.0]]]))


def test_a_step_without_a_limit_is_as_long_as_its_gradient():
    boxes, grad = torch.tensor([[[10.0, 20, 8, 8]]]), torch.tensor([[[1e30, 0, 0, 0]]])
    moved = KeypointStep(KeypointSpec(lr=1, clip=None)).move(boxes, boxes, grad)
    assert moved.tolist() == [[[pytest.approx(-1e30), 20, 8, 8]]]


def test_a_box_without_gradient_stays():
    boxes = torch.tensor([[[10.0, 20, 8, 8]]])
    assert KeypointStep(KeypointSpec()).move(boxes, boxes, torch.zeros(1, 1, 4)).equal(boxes)


def test_several_keypoint_steps_follow_each_other(tiny_mist):
    batch = batch_of(4)
    once = tiny_mist(keypoints={"order": "x_tau_eta", "steps": 1})
    twice = tiny_mist(keypoints={"order": "x_tau_eta", "steps": 2})
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
    method = smooth(tiny_mist(keypoints={"order": "x_tau_eta", "lr": 1, "clip": 1e6}))
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
        method = tiny_mist(keypoints={"order": order}, mirror=False, shift=0, adam={"lr_task": 0})
        method.head.eval()  # batch norm would let images see each other
        method.detector.eval()
        calls = Recorder(method, monkeypatch)
        method.train_step(batch_of(size))
        moved[size] = calls.calls[-1][1][2]
    torch.testing.assert_close(moved[4][:1], moved[1], atol=1e-3, rtol=1e-4)


def test_a_keypoint_moves_as_far_as_its_limit_or_not_at_all(tiny_mist):
    method = tiny_mist(keypoints={"order": "x_tau_eta", "lr": 1e9, "clip": 2})
    images, start, labels = inputs(method, batch_of(8))
    shift = (method.update_keypoints(images, start, labels) - start)[..., :2].norm(dim=-1)
    empty = shift == 0  # a patch without ink pulls nowhere
    assert 0 < empty.sum() < 16
    torch.testing.assert_close(shift[~empty], torch.full_like(shift[~empty], 2.0))


def test_the_limit_shrinks_and_short_steps_stay():
    step = KeypointStep(KeypointSpec(lr=10, clip=2, decay=True))
    boxes = torch.zeros(1, 2, 4)
    grad = torch.tensor([[[1.0, 0, 0, 0], [0, 0.01, 0, 0]]])
    whole, half = (step.move(boxes, boxes, grad, cooling)[0, :, :2] for cooling in (1, 0.5))
    torch.testing.assert_close(whole, torch.tensor([[-2.0, 0], [0, -0.1]]))
    torch.testing.assert_close(half, torch.tensor([[-1.0, 0], [0, -0.1]]))


@pytest.mark.parametrize(("decay", "expected"), [(True, [1, 0.25, 1]), (False, [1, 1, 1])])
def test_it_follows_the_learning_rate(tiny_spec, decay, expected):
    method = build_method(tiny_spec(params={"keypoints": {"decay": decay}}), torch.device("cpu"))
    remember_learning_rates(method.optimizers)
    found = []
    for factor in (1.0, 0.25, 1.0):
        scale_learning_rates(method.optimizers, factor)
        found.append(method.cooling())
    assert found == pytest.approx(expected)


def test_a_method_without_a_loop_takes_whole_steps(tiny_spec):
    method = build_method(tiny_spec(params={"keypoints": {"decay": True}}), torch.device("cpu"))
    assert method.cooling() == 1


def test_a_patch_without_a_gradient_stays_when_all_is_cold():
    boxes = torch.rand(1, 2, 4)
    moved = KeypointStep(KeypointSpec(lr=10, clip=2, decay=True)).move(
        boxes, boxes, torch.zeros(1, 2, 4), 0.0
    )
    assert torch.equal(moved, boxes)
