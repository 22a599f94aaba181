"""Keypoints (x, y, s): their step, its gradient, what grows with a box; statistics of a scale."""

import math

import pytest
import torch
from conftest import tiny_arrays
from torch import nn

from mist_bench.models.autoencoder import BoxAutoencoder
from mist_bench.models.detector import Detector
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.multiscale import MultiscaleDetector
from mist_bench.models.specs import DetectorSpec, KeypointSpec
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method

CPU = torch.device("cpu")
SCALES = [0.5, 1.0, 2.0]


@pytest.fixture
def multiscale(tiny_spec):
    """MIST at three scales, and four images with labels."""
    method = build_method(tiny_spec("mist_multiscale", 0, {"scales": SCALES}), CPU).train()
    return method, make_batch(tiny_arrays(10, seed=0), [*range(4)], "labels", CPU)


@pytest.mark.parametrize(
    ("clip", "penalty", "edge"),
    [
        (None, 0.0, 2 * 2 * (0.5 + 1)),  # lr times the slope by an edge, which moves both sides
        (5.0, 0.0, 6 * 0.5),  # a step of (6, -8, 0) and 6 in depth is sqrt(136) px long
        (None, 0.25, 2 * (3 + 0.5 * 1)),  # the start's edge lies 1 px further in
    ],
)
def test_a_keypoint_step_over_scale_by_hand(clip, penalty, edge):
    boxes, start = torch.tensor([[[10.0, 20, 8, 8]]]), torch.tensor([[[10.0, 20, 6, 6]]])
    grad = torch.tensor([[[3.0, -4, 0.5, 1.0]]])
    ratio = 1 if clip is None else clip / math.sqrt(6**2 + 8**2 + 6**2)
    edge = edge if clip is None else 6 * ratio
    side = 8 * math.exp(-2 * edge / 8)  # log-scale, equal to 8 - 2 * edge for small steps
    moved = KeypointStep(KeypointSpec(lr=2, clip=clip, penalty=penalty), sides=(1e-3, 99.0)).move(
        boxes, start, grad
    )
    expected = torch.tensor([[[10 - 6 * ratio, 20 + 8 * ratio, side, side]]])
    torch.testing.assert_close(moved, expected)


@pytest.mark.parametrize(("slope", "side"), [(1e3, 6.0), (-1e3, 12.0), (0.0, 8.0)])
def test_a_side_stays_in_the_range_of_the_scales(slope, side):
    boxes = torch.tensor([[[10.0, 20, 8, 8]]])
    step = KeypointStep(KeypointSpec(lr=1, clip=None), sides=(6.0, 12.0))
    moved = step.move(boxes, boxes, torch.tensor([[[0.0, 0.0, slope, slope]]]))
    assert moved.tolist() == [[[10.0, 20.0, side, side]]]


class Same(nn.Module):
    """An auto-encoder whose squashed output is 1 everywhere."""

    def forward(self, patches):
        return torch.full_like(patches, 100.0)


def test_the_encoded_square_grows_with_the_box():
    boxes = torch.tensor([[[20.0, 20, 8, 8], [20, 20, 16, 16]]])
    images = torch.zeros(1, 1, 41, 41)
    for k, width in enumerate((11, 21)):  # a square of 10 or 20 px covers 11 or 21 pixels
        head = BoxAutoencoder(Same(), patch_size=21, extent=10.0, signed=False, box_size=8.0)
        synthesis, _ = head(images, boxes[:, k : k + 1])
        assert (synthesis == 1).sum() == width**2
    fixed = BoxAutoencoder(Same(), patch_size=21, extent=10.0, signed=False)
    assert fixed(images, boxes[:, :1])[0].equal(fixed(images, boxes[:, 1:])[0])


def test_the_step_over_scale_follows_the_loss_by_finite_differences():
    """Small steps are those of plain descent on the edge's distance from the center."""
    torch.manual_seed(0)
    head = BoxAutoencoder(nn.Tanh(), patch_size=9, extent=10.0, signed=False, box_size=8.0)
    ramp = torch.linspace(0, 1, 30, dtype=torch.float64)
    images = (ramp[:, None] * ramp.square()).expand(1, 1, 30, 30)
    boxes = torch.tensor([[[12.3, 14.1, 9.7, 9.7]]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(head.loss(images, boxes, images).sum(), boxes)
    start, lr = boxes.detach(), 1e-4
    step = KeypointStep(KeypointSpec(lr=lr, clip=None), sides=(1.0, 99.0))
    moved = step.move(start, start, grad)
    edge = torch.tensor([0, 0, 2, 2], dtype=torch.float64) * 1e-5
    slope = (
        head.loss(images, start + edge, images) - head.loss(images, start - edge, images)
    ) / 2e-5
    step = (start - moved)[..., 2] / 2
    torch.testing.assert_close(step[0] / lr, slope, rtol=1e-3, atol=1e-7)
    assert slope.abs() > 1e-3


def test_training_moves_sides_and_predictions_have_them(multiscale):
    method, batch = multiscale
    (heatmap, maps), K = method.detector(batch.images), 2
    start, _ = method.detector.extract(heatmap, maps, K)
    targets = method.head.targets(batch)
    moved = method.update_keypoints(batch.images, start, targets)
    assert not moved[..., 2:].equal(start[..., 2:])
    assert moved[..., 2].equal(moved[..., 3])
    assert ((moved[..., 2] >= 4) & (moved[..., 2] <= 16)).all()
    before = [one.clone() for one in method.detector.parameters()]
    method.train_step(batch)
    after = method.detector.parameters()
    assert all(not one.equal(old) for one, old in zip(after, before, strict=True))
    for _ in range(20):
        method.train_step(batch)
    found = method.eval().predict(batch.images)
    assert {one.heatmap.shape for one in found} == {(6, 6)}
    sides = torch.stack([one.boxes[:, 2] for one in found])
    assert ((sides >= 4) & (sides <= 16)).all()
    assert sides.std() > 0.1


class Norm(nn.BatchNorm2d):
    """A network that is a batch norm which remembers the last batch only."""

    stride = 1

    def __init__(self):
        super().__init__(1, momentum=1.0)


def test_each_scale_has_its_own_batch_statistics():
    spec = DetectorSpec(target_sigma=0, offset_weight=0, offset_kernel=1)
    single = Detector(Norm(), 8.0, spec)
    one = MultiscaleDetector(single, SCALES)
    images = torch.zeros(2, 1, 20, 20)
    images[..., 8:12, 8:12] = 1
    one(images)
    # a square of 4 px in one of 20 px: samples 2 px apart keep its share
    torch.testing.assert_close(one.scaled_running_mean[1:, 0], torch.tensor([0.04, 0.04]))
    # of shares p of ones, p (1 - p), and n / (n - 1) because batch norm stores it unbiased
    variance = torch.tensor([0.04 * 0.96 * n / (n - 1) for n in (800, 200)])
    torch.testing.assert_close(one.scaled_running_var[1:, 0], variance)
    assert one.scaled_running_var[0] < variance[0]  # an enlarged square has soft edges
    assert single.network.running_mean.item() == 0
    assert one.scaled_num_batches_tracked.tolist() == [1, 1, 1]


def test_images_that_end_within_a_cell_have_no_scales(multiscale):
    method, batch = multiscale
    with pytest.raises(
        ValueError, match="images must be a multiple of 4 px high and wide, got 24x23"
    ):
        method.detector(batch.images[..., :-1])
