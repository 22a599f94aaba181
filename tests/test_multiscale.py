"""The detector over several scales: fusion, moments and G by hand, and resizing."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_bench.models.detector import Detector, build_detector
from mist_bench.models.multiscale import (
    MultiscaleDetector,
    at_scales,
    fuse,
    moment_weights,
    resize,
    restore_weights,
    scale_heatmaps,
    scale_weights,
    shrink_weights,
    shrunk,
)
from mist_bench.models.specs import DetectorSpec

SCALES = (0.5, 1.0, 2.0)
POINTS = {"target_sigma": 0, "offset_weight": 0, "offset_kernel": 1}  # no Gaussians, no offsets
SMALL = {"channels": 8, "blocks": 1}
CASES = [(0, 3, 0, 1), (0, 3, 0.1, 1), (0.6, 0, 0, 1), (0.6, 0, 0.1, 1), (0.6, 0, 0.1, 3)]


class Pixels(nn.Module):
    """A network of stride 1 whose response is the image: it sees a single pixel."""

    stride = 1

    def forward(self, images):
        return images


def detector(scales=SCALES, network=None, box_size=8.0, **changes):
    spec = DetectorSpec(**POINTS | changes)
    return MultiscaleDetector(Detector(network or Pixels(), box_size, spec), scales)


def maps_of(response, offsets=None):
    """Maps (1, S, 3, h, w) of a (S, h, w) response."""
    offsets = torch.zeros(*response.shape, 2) if offsets is None else offsets
    return torch.cat([response[..., None], offsets], -1).movedim(-1, 1)[None]


def test_fusion_by_hand():
    responses = torch.tensor([[0.2, 0.0, -0.5], [0.6, 0.0, -0.1]])[None, :, None]  # S = 2
    # (0.04 + 0.36) / (0.8 + 2 eps); nothing; the higher of two negative responses
    expected = torch.tensor([[[0.4 / 0.802, 0.0, -0.1]]])
    torch.testing.assert_close(fuse(responses, eps=1e-3), expected)


def test_a_scale_below_zero_adds_nothing():
    torch.testing.assert_close(fuse(torch.tensor([[[[0.5]], [[-0.3]]]])), torch.tensor([[[0.5]]]))


@pytest.mark.parametrize(
    ("responses", "scale"),
    [
        ([0.1, 0.3, 0.0], (0.1 * 0.5 + 0.3 * 1) / 0.4),
        ([0.2, 0.2, 0.4], (0.2 * 0.5 + 0.2 * 1 + 0.4 * 2) / 0.8),
        ([0.0, 0.0, 7.0], 2.0),
        ([-0.5, 0.3, 0.3], 1.5),  # below 0 counts as 0
        ([0.0, -1.0, 0.0], 3.5 / 3),  # nothing to weigh: the mean
    ],
)
def test_the_first_moment_by_hand(responses, scale):
    weights = moment_weights(torch.tensor(responses, dtype=torch.float64))
    assert (weights * torch.tensor(SCALES)).sum().item() == pytest.approx(scale)


@pytest.mark.parametrize(
    ("scale", "weights"),
    [
        (0.5, [1, 0, 0]),
        (0.625, [0.75, 0.25, 0]),
        (1.0, [0, 1, 0]),
        (1.25, [0, 0.75, 0.25]),
        (2.0, [0, 0, 1]),
        (0.1, [1, 0, 0]),  # out of range: the nearest end
        (9.0, [0, 0, 1]),
    ],
)
def test_mass_goes_to_the_two_nearest_scales(scale, weights):
    assert scale_weights(torch.tensor(scale), torch.tensor(SCALES)).tolist() == weights


@settings(deadline=None)
@given(
    scales=st.lists(st.floats(0.1, 10), min_size=1, max_size=6, unique=True).map(sorted),
    share=st.floats(0, 1),
)
def test_the_mass_is_1_and_its_first_moment_is_the_scale(scales, share):
    ladder = torch.tensor(scales, dtype=torch.float64)
    scale = ladder[0] + share * (ladder[-1] - ladder[0])
    weights = scale_weights(scale, ladder)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert (weights * ladder).sum().item() == pytest.approx(scale.item(), abs=1e-12)
    assert (weights >= 0).all()
    assert (weights > 0).sum() <= 2


def test_points_carry_their_mass():
    keypoints = torch.tensor([[[1.2, 0.0], [3.0, 2.0]]])
    weights = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    target = scale_heatmaps(keypoints, weights, (4, 5), 0.0)
    expected = torch.zeros(1, 2, 4, 5)
    expected[0, :, 0, 1] = torch.tensor([0.25, 0.75])
    expected[0, 0, 2, 3] = 1
    assert target.equal(expected)


def test_of_points_in_one_cell_the_highest_stays():
    weights = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]])
    target = scale_heatmaps(torch.ones(1, 2, 2), weights, (3, 3), 0.0)
    assert target[0, :, 1, 1].tolist() == [0.5, 0.75]
    assert target.sum() == 1.25


def test_gaussians_are_summed_by_their_mass():
    keypoints = torch.tensor([[[1.0, 1.0], [2.0, 1.0]]])
    weights = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    row = scale_heatmaps(keypoints, weights, (3, 4), 0.5)[0, :, 1]
    g = [math.exp(-(d**2) / 0.5) for d in range(4)]
    expected = [
        [0.25 * g[1] + g[2], 0.25 * g[0] + g[1], 0.25 * g[1] + g[0], 0.25 * g[2] + g[1]],
        [0.75 * g[1], 0.75 * g[0], 0.75 * g[1], 0.75 * g[2]],
    ]
    torch.testing.assert_close(row, torch.tensor(expected))


@settings(deadline=None, max_examples=50)
@given(scale=st.floats(0.5, 2), x=st.integers(0, 8), y=st.integers(0, 8))
def test_extraction_inverts_the_ideal_heatmap(scale, x, y):
    """{x_k} = E_K(G({x_k})) (Appendix B)."""
    one = detector()
    box = torch.tensor([[[x, y, 8 * scale, 8 * scale]]])
    weights = scale_weights(box[..., 2] / 8, one.scales)
    response = scale_heatmaps(one.single.to_cells(box), weights, (9, 9), 0.0)
    found, _ = one.extract(fuse(response), maps_of(response[0]), 1)
    torch.testing.assert_close(found, box, atol=1e-5, rtol=1e-5)
    assert sum(one.loss(fuse(response), maps_of(response[0]), box)).item() < 1e-10


def test_a_peak_of_a_known_scale_is_found_there():
    response = torch.zeros(3, 6, 7)
    response[:, 4, 2] = torch.tensor([0.0, 0.9, 0.3])  # s = (0.9 + 0.6) / 1.2 = 1.25
    response[:, 1, 5] = torch.tensor([0.5, 0.0, 0.0])
    offsets = torch.zeros(3, 6, 7, 2)
    offsets[:, 4, 2] = torch.tensor([[9.0, 9.0], [0.2, 0.4], [-0.2, 0.0]])
    one = detector()
    boxes, scores = one.extract(fuse(response[None]), maps_of(response, offsets), 2)
    # offsets (0.9 * 0.2 - 0.3 * 0.2) / 1.2 and 0.9 * 0.4 / 1.2
    expected = [[[2.1, 4.3, 10.0, 10.0], [5.0, 1.0, 4.0, 4.0]]]
    torch.testing.assert_close(boxes, torch.tensor(expected))
    torch.testing.assert_close(scores, torch.tensor([[0.9 / 1.2, 0.5]]))  # (.81 + .09) / 1.2


class Blobs(nn.Module):
    """A network of stride 1 that answers squares of 5 px: the matched filter, squared."""

    stride = 1

    def forward(self, images):
        inside = F.avg_pool2d(images, 5, 1, 2)
        around = F.avg_pool2d(images, 9, 1, 4) * 81 - inside * 25
        return (inside - around / 40).clamp(min=0) ** 2


@pytest.mark.parametrize(("side", "scale"), [(5, 1.0), (10, 2.0)])
def test_an_object_of_a_known_size_is_found_at_its_scale(side, scale):
    images = torch.zeros(1, 1, 40, 40)
    images[..., 12 : 12 + side, 20 : 20 + side] = 1
    one = detector((1.0, 2.0), Blobs(), box_size=5.0)
    (box,), _ = one.extract(*one(images), 1)
    center = [20 + (side - 1) / 2, 12 + (side - 1) / 2]
    torch.testing.assert_close(box[0, :2], torch.tensor(center), atol=0.51, rtol=0)
    assert box[0, 2].item() == pytest.approx(5 * scale, rel=0.15)


@pytest.mark.parametrize(("sigma", "kernel", "offset_weight", "offset_kernel"), CASES)
def test_one_scale_of_1_equals_the_detector(sigma, kernel, offset_weight, offset_kernel):
    torch.manual_seed(0)
    changes = {"target_sigma": sigma, "softmax_kernel": kernel}
    changes |= {"offset_weight": offset_weight, "offset_kernel": offset_kernel}
    single = build_detector(1, 8.0, DetectorSpec(**SMALL | POINTS | changes))
    one, images = MultiscaleDetector(single, [1.0]), torch.rand(3, 1, 24, 32)
    (heatmap, offsets), (fused, maps) = single(images), one(images)
    torch.testing.assert_close(fused, heatmap, atol=2e-6, rtol=0)
    torch.testing.assert_close(maps[:, 0], torch.cat([heatmap[:, None], offsets], 1))
    boxes, scores = single.extract(heatmap, offsets, 5)
    found, other = one.extract(fused, maps, 5)
    torch.testing.assert_close(found, boxes)
    torch.testing.assert_close(other, scores, atol=2e-6, rtol=0)
    moved = boxes + torch.randn(3, 5, 1)
    moved[..., 2:] = 8
    torch.testing.assert_close(one.loss(fused, maps, moved), single.loss(heatmap, offsets, moved))


def test_no_multiscale_code_for_the_single_scale_1():
    single = Detector(Pixels(), 8.0, DetectorSpec(**POINTS))
    assert at_scales(single, [1.0]) is single
    assert single.sides is None
    assert at_scales(single, SCALES).sides == (4.0, 16.0)


@pytest.mark.parametrize("kernel", [0, 3])
def test_shapes_and_that_all_scales_train_one_network(kernel):
    torch.manual_seed(0)
    changes = {"softmax_kernel": kernel, "offset_weight": 0.1}
    single = build_detector(1, 8.0, DetectorSpec(**SMALL | POINTS | changes))
    one = MultiscaleDetector(single, SCALES)
    fused, maps = one(torch.rand(2, 1, 24, 32))
    assert fused.shape == (2, 6, 8)
    assert not fused.requires_grad
    assert maps.shape == (2, 3, 3, 6, 8)
    boxes, scores = one.extract(fused, maps, 4)
    assert (boxes.shape, scores.shape) == ((2, 4, 4), (2, 4))
    assert ((boxes[..., 2:] >= 4) & (boxes[..., 2:] <= 16)).all()
    loss = sum(one.loss(fused, maps, boxes))
    assert loss.shape == (2,)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in one.parameters())
    assert len(list(one.parameters())) == len(list(single.parameters()))


@pytest.mark.parametrize(("sigma", "kernel"), [(0.0, 1), (0.6, 1), (0.6, 3)])
def test_the_gradient_of_the_loss_by_finite_differences(sigma, kernel):
    torch.manual_seed(0)
    one = detector(target_sigma=sigma, offset_weight=0.1, offset_kernel=kernel).double()
    maps = torch.randn(2, 3, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.rand(2, 4, 4, dtype=torch.float64) * 5
    boxes[..., 2:] = torch.tensor([3.0, 5.0, 9.0, 16.0])[:, None]  # one out of range
    assert torch.autograd.gradcheck(lambda m: one.loss(m[:, 0, 0], m, boxes), maps)


def test_the_loss_by_hand():
    response = torch.zeros(3, 2, 2)
    response[0, 0, 0] = 0.5
    offsets = torch.zeros(3, 2, 2, 2)
    offsets[1, 1, 1], offsets[2, 1, 1] = torch.tensor([0.2, 0.0]), torch.tensor([0.0, 0.4])
    maps, box = maps_of(response, offsets), torch.tensor([[[1.0, 1.0, 10.0, 10.0]]])
    # s = 1.25, so G is 0.75 and 0.25 at cell (1, 1); nothing is wanted at the 0.5; 4 cells
    heatmap_loss = (0.5**2 + 0.75**2 + 0.25**2) / 4
    # Huber's halves of 0.2^2 and 0.4^2, mean over x and y, weighed by the masses
    offset_loss = (0.75 * 0.5 * 0.2**2 + 0.25 * 0.5 * 0.4**2) / 2
    one = detector(offset_weight=0.1)
    found = torch.cat(one.loss(None, maps, box))
    torch.testing.assert_close(found, torch.tensor([heatmap_loss, 0.1 * offset_loss]))


@pytest.mark.parametrize("scale", [0.5, 0.7071, 1.0, 1.4142, 2.0])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_resized_maps_stay_in_place(scale, stride):
    """A ramp is a ramp of slope s in the resized image, and comes back where it was."""
    length, like = 40, torch.zeros(1, dtype=torch.float64)
    ramp = torch.arange(length, dtype=torch.float64)
    small = shrink_weights(length, scale, stride, like) @ ramp
    assert len(small) == shrunk(length, scale, stride)
    assert len(small) % stride == 0
    torch.testing.assert_close(small, -small.flip(0) + length - 1)  # the center stays
    inside = (small > 0) & (small < length - 1)
    torch.testing.assert_close(small[inside].diff(), torch.full_like(small[inside][1:], scale))
    cells = small.view(-1, stride).mean(1)  # a network's cells sit in the middle of their pixels
    back = restore_weights(length, scale, stride, like) @ cells
    expected = stride * torch.arange(length // stride) + (stride - 1) / 2
    edge = math.ceil(2 * scale)  # cells whose neighbors include repeated pixels
    torch.testing.assert_close(back[edge:-edge], expected[edge:-edge].double())


def test_resizing_is_bilinear_interpolation():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 12)
    rows, columns = (shrink_weights(size, 0.5, 1, images) for size in (16, 12))
    expected = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(images, rows, columns), expected)
