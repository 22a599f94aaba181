"""Landmarks, their heatmaps and the decoder: every formula with numbers by hand."""

import math

import pytest
import torch
from torch import nn

from mist_bench.baselines.parts.landmarks import (
    LandmarkDecoder,
    LinearPerLandmark,
    cell_centers,
    concentration,
    equivariance,
    gaussian_maps,
    moments,
    pool_features,
    separation,
    spread_features,
)


def gaussian_map(center, std, size=100):
    """Return the (1, 1, h, h) map of a Gaussian of any height."""
    places = cell_centers(size, 1, torch.zeros(1))
    x = (-(places - center[0]).square() / (2 * std**2)).exp()
    y = (-(places - center[1]).square() / (2 * std**2)).exp()
    return 7 * (y[:, None] * x)[None, None]


def test_cells_of_a_padded_map_reach_beyond_the_image():
    places = cell_centers(4, 1, torch.zeros(1))
    assert places.tolist() == [-0.375, -0.125, 0.125, 0.375]
    assert cell_centers(4, 2, torch.zeros(1)).tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_the_landmark_of_a_single_cell_is_its_center():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 3, 1] = 5  # row 3, column 1
    mean, std = moments(maps, 1)
    torch.testing.assert_close(mean, torch.tensor([[[-0.125, 0.375]]]))
    assert std.item() == pytest.approx(0, abs=1e-3)
    torch.testing.assert_close(moments(maps, 1.2)[0], 1.2 * mean)


def test_the_landmark_of_two_cells_is_between_them():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 0, 0], maps[0, 0, 0, 2] = 3, 1  # a quarter of the mass is half a side to the right
    mean, std = moments(maps, 1)
    torch.testing.assert_close(mean, torch.tensor([[[-0.375 + 0.125, -0.375]]]))
    along = math.sqrt(0.75 * 0.125**2 + 0.25 * 0.375**2)
    assert std.item() == pytest.approx(along / 2, abs=1e-3)  # the mean over both axes


def test_the_concentration_of_a_gaussian():
    mean, std = moments(gaussian_map((0.1, -0.05), 0.06), 1)
    torch.testing.assert_close(mean, torch.tensor([[[0.1, -0.05]]]), atol=1e-5, rtol=0)
    assert std.item() == pytest.approx(0.06, rel=1e-3)
    assert concentration(std).item() == pytest.approx(2 * math.pi * math.e * 0.06**2, rel=2e-3)


def test_moments_have_a_finite_gradient_at_a_single_cell():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 2, 2] = 1
    maps.requires_grad_()
    concentration(moments(maps, 1)[1]).sum().backward()
    assert maps.grad.isfinite().all()


def test_the_separation_of_two_points():
    landmarks = torch.tensor([[[0.0, 0.0], [0.03, 0.04]], [[0.0, 0.0], [0.0, 0.0]]])
    near = 2 * math.exp(-(0.05**2) / (2 * 0.08**2))  # both orders of the pair
    torch.testing.assert_close(separation(landmarks, 0.08), torch.tensor([near, 2.0]))


def test_equivariance_sums_squares_in_half_sides():
    landmarks = torch.tensor([[[0.1, 0.0], [0.2, 0.2]]])
    assert equivariance(landmarks, landmarks).item() == 0
    returned = landmarks + torch.tensor([[[0.03, 0.04], [0.0, 0.1]]])
    torch.testing.assert_close(
        equivariance(landmarks, returned), torch.tensor([4 * (0.05**2 + 0.1**2)])
    )


def test_gaussian_maps_by_hand():
    std = 0.125
    landmarks = torch.tensor([[[-0.375, 0.125], [0.375, 0.125]]])
    maps = gaussian_maps(landmarks, std, 4)
    assert maps.shape == (1, 3, 4, 4)
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 4, 4))
    peak = 1 / (2 * math.pi * std**2)
    far = peak * math.exp(-(0.75**2) / (2 * std**2))
    total = peak + far + 1
    wanted = torch.tensor([peak, far, 1]) / total
    torch.testing.assert_close(maps[0, :, 2, 0], wanted)  # row 2, column 0: on the first landmark


def test_pooled_features_are_weighted_means():
    features = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 0], [0, 8]]]])
    maps = torch.tensor([[[[1.0, 0], [0, 3]]]])
    torch.testing.assert_close(pool_features(features, maps), torch.tensor([[[3.25, 6.0]]]))


def test_spread_features_are_sums_over_landmarks():
    features = torch.tensor([[[1.0, 10], [2, 0]]])  # two landmarks, two features
    maps = torch.tensor([[[[1.0, 0.5]], [[0, 0.5]]]])
    wanted = torch.tensor([[[[1.0, 1.5]], [[10, 5]]]])
    torch.testing.assert_close(spread_features(features, maps), wanted)


class Pick(nn.Module):
    """A network that returns some channels of its input."""

    def __init__(self, *channels):
        super().__init__()
        self.channels = channels

    def forward(self, maps):
        return maps[:, self.channels]


def decoder(network, expand=None, stride=1):
    expand = expand or LinearPerLandmark(3, 4, 5)
    return LandmarkDecoder(network, expand, [0.1, 0.2], 6, stride)


def test_each_landmark_has_its_own_matrix():
    linear = LinearPerLandmark(2, 2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[[1.0], [10.0]], [[-1.0], [0.0]]]))
        linear.bias.fill_(0.5)
    features = torch.tensor([[[2.0, 3.0], [2.0, 3.0]], [[0.0, 1.0], [4.0, 1.0]]])
    wanted = torch.tensor([[[32.5], [-1.5]], [[10.5], [-3.5]]])
    torch.testing.assert_close(linear(features), wanted)


def test_the_network_gets_the_gaussians_of_every_width_and_then_features():
    landmarks = torch.tensor([[[0.1, -0.2], [0.3, 0.3]]])
    first = decoder(Pick(0))(landmarks, torch.zeros(1, 3, 4))
    torch.testing.assert_close(first, gaussian_maps(landmarks, 0.1, 6)[:, :1].sigmoid())
    wide = decoder(Pick(3))(landmarks, torch.zeros(1, 3, 4))
    torch.testing.assert_close(wide, gaussian_maps(landmarks, 0.2, 6)[:, :1].sigmoid())
    expand = LinearPerLandmark(3, 4, 5)
    with torch.no_grad():
        expand.weight.zero_()
        expand.bias.fill_(-1)  # rectified to -0.2; heatmaps sum to 1 over landmarks
    spread = decoder(Pick(6), expand)(landmarks, torch.rand(1, 3, 4))
    torch.testing.assert_close(spread, torch.full_like(spread, -0.2).sigmoid())


def test_cells_become_squares_of_pixels():
    landmarks = torch.zeros(1, 2, 2)
    image = decoder(Pick(0, 1, 2, 2), stride=2)(landmarks, torch.zeros(1, 3, 4))
    assert image.shape == (1, 1, 12, 12)
    maps = gaussian_maps(landmarks, 0.1, 6).sigmoid()
    torch.testing.assert_close(image[0, 0, 1::2, 1::2], maps[0, 2])
    torch.testing.assert_close(image[0, 0, ::2, ::2], maps[0, 0])
