"""Keypoint steps whose limit follows the schedule of the learning rates."""

import pytest
import torch

from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.run.method import build_method
from mist_bench.run.training import remember_learning_rates, scale_learning_rates

CPU = torch.device("cpu")


def test_the_limit_shrinks_and_short_steps_stay():
    step = KeypointStep(10, 2, 1, 0, decay=True)
    boxes = torch.zeros(1, 2, 4)
    grad = torch.tensor([[[1.0, 0, 0, 0], [0, 0.01, 0, 0]]])
    whole, half = (step.move(boxes, boxes, grad, cooling)[0, :, :2] for cooling in (1, 0.5))
    torch.testing.assert_close(whole, torch.tensor([[-2.0, 0], [0, -0.1]]))
    torch.testing.assert_close(half, torch.tensor([[-1.0, 0], [0, -0.1]]))


def test_without_a_limit_nothing_can_decay():
    with pytest.raises(ValueError, match="keypoint_decay needs a keypoint_clip"):
        KeypointStep(10, None, 1, 0, decay=True)


@pytest.mark.parametrize(("decay", "expected"), [(True, [1, 0.25, 1]), (False, [1, 1, 1])])
def test_it_follows_the_learning_rate(tiny_spec, decay, expected):
    method = build_method(tiny_spec(params={"keypoint_decay": decay}.items()), CPU)
    remember_learning_rates(method.optimizers)
    found = []
    for factor in (1.0, 0.25, 1.0):
        scale_learning_rates(method.optimizers, factor)
        found.append(method.cooling())
    assert found == pytest.approx(expected)


def test_a_method_without_a_loop_takes_whole_steps(tiny_spec):
    method = build_method(tiny_spec(params={"keypoint_decay": True}.items()), CPU)
    assert method.cooling() == 1


def test_a_patch_without_a_gradient_stays_when_all_is_cold():
    boxes = torch.rand(1, 2, 4)
    moved = KeypointStep(10, 2, 1, 0, decay=True).move(boxes, boxes, torch.zeros(1, 2, 4), 0.0)
    assert torch.equal(moved, boxes)
