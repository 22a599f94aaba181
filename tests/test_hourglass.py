"""The hourglass: its layers counted, its two ways by hand."""

import pytest
import torch
from torch import nn

from mist_bench.baselines.parts.hourglass import Hourglass, HourglassSpec, chain


def convolutions(network):
    """Return (in, out) channels of every convolution."""
    layers = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    return sorted((one.in_channels, one.out_channels) for one in layers)


def pass_through(network):
    """Make every convolution and batch norm of equal channels return its input."""
    for one in network.modules():
        if isinstance(one, nn.Conv2d):
            nn.init.dirac_(one.weight)
        elif isinstance(one, nn.BatchNorm2d):
            one.eps = 0
    return network.eval()


def test_the_published_detector_has_its_layers():
    spec = HourglassSpec(levels=((32, 32), (64, 64), (64, 64), (64, 64)), skips=3, channels=32)
    network = Hourglass(3, 11, spec, "normalized")
    down = [(3, 32), (32, 32), (32, 64), (64, 64), *[(64, 64)] * 4]
    skips = [*[(32, 32)] * 3, *[(64, 64)] * 6]
    up = [*[(64, 64)] * 4, (64, 64), (64, 32), (32, 32), (32, 11)]
    assert convolutions(network) == sorted(down + skips + up)


def test_levels_of_one_convolution_mirror_it():
    spec = HourglassSpec(levels=((8, 16), (24,), (32,)), skips=2, channels=12)
    network = Hourglass(3, 5, spec, "linear")
    down = [(3, 8), (8, 16), (16, 24), (24, 32)]
    skips = [*[(16, 16)] * 2, *[(24, 24)] * 2]
    up = [(32, 24), (24, 16), (16, 12), (12, 5)]
    assert convolutions(network) == sorted(down + skips + up)


def test_the_skip_and_the_way_through_the_coarse_level_add():
    network = pass_through(Hourglass(1, 1, HourglassSpec(levels=((1,), (1,))), "normalized"))
    image = torch.tensor([[[[0.0, 1, 5, 0], [2, 3, 0, 0]]]])
    wanted = image + torch.tensor([3.0, 3, 5, 5])  # the maximum of each 2 x 2
    torch.testing.assert_close(network(image), wanted)


@pytest.mark.parametrize(
    ("output", "wanted"), [("activated", -0.2), ("normalized", -1.0), ("linear", -1.0)]
)
def test_only_an_activated_output_is_rectified(output, wanted):
    network = Hourglass(1, 1, HourglassSpec(levels=((1,),)), output)
    pass_through(network)
    last = network.up[-1] if output == "linear" else network.up[-1][1]
    nn.init.constant_(last.bias, -1)
    assert network(torch.zeros(1, 1, 1, 1)).item() == pytest.approx(wanted)


def test_every_weight_is_used():
    spec = HourglassSpec(levels=((4, 4), (6,), (8,)), skips=2, channels=4)
    network = Hourglass(2, 3, spec, "linear")
    out = network(torch.rand(2, 2, 8, 8))
    assert out.shape == (2, 3, 8, 8)
    out.square().sum().backward()
    assert all(one.grad is not None for one in network.parameters())


def test_a_chain_of_one_width_does_nothing():
    image = torch.rand(1, 3, 2, 2)
    assert chain([3])(image) is image
