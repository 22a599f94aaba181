"""The decoder of landmarks: linear maps by hand, and Gaussians where landmarks are."""

import torch
from torch import nn

from mist_bench.baselines.parts.landmarks import LandmarkDecoder, LinearPerLandmark, gaussian_maps


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
