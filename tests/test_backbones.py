"""Pretrained networks: shapes, geometry, normalization and weights."""

import numpy as np
import pytest
import torch
from conftest import configuration
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet34

from mist_bench.backbones import efficientnet_lite, resnet
from mist_bench.backbones.normalization import Normalized

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def lite():
    return efficientnet_lite.build(**PLAIN)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of ResNet-34 with random weights, and the network."""
    torch.manual_seed(0)
    network = resnet34().eval()
    path = tmp_path_factory.mktemp("weights") / "resnet34.pth"
    torch.save(network.state_dict(), path)
    return path, network


def test_the_configuration_speaks_of_the_networks_there_are(lite, weights):
    config = configuration("cpu")
    networks = {
        "efficientnet_lite0": lite,
        "resnet34": resnet.build(weights=str(weights[0]), **PLAIN),
    }
    assert set(config.backbones) == set(networks)
    for name, network in networks.items():
        entry = config.backbones[name]
        with torch.no_grad():
            shape = network(torch.zeros(1, 3, 64, 96)).shape
        assert shape == (1, entry.channels, 64 // entry.stride, 96 // entry.stride)


def test_lite_weights_are_trained_ones(lite):
    norm = lite.network.stem[1]
    assert norm.running_var.std() > 0.01  # 1 everywhere before training
    assert not lite.training


def test_resnet_is_the_network_through_its_third_layer(weights):
    path, whole = weights
    images = torch.rand(2, 3, 64, 64)
    x = (images - 0.5) / 0.25
    with torch.no_grad():
        x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))
        expected = whole.layer3(whole.layer2(whole.layer1(x)))
        found = resnet.build(weights=str(path), mean=[0.5] * 3, std=[0.25] * 3)(images)
    torch.testing.assert_close(found, expected)


def test_weights_may_be_safetensors(weights, tmp_path):
    path, whole = weights
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        one = resnet.build(weights=str(path), **PLAIN)(images)
        other = resnet.build(weights=str(tmp_path / "w.safetensors"), **PLAIN)(images)
    assert torch.equal(one, other)


def test_files_that_are_no_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.pth: cannot be read as weights .*No such file"):
        resnet.build(weights=str(tmp_path / "none.pth"), **PLAIN)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text.pth: cannot be read as weights"):
        resnet.build(weights=str(tmp_path / "text.pth"), **PLAIN)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors: not ResNet-34's weights"):
        resnet.build(weights=str(tmp_path / "other.safetensors"), **PLAIN)


def test_without_network_the_manual_steps_are_named(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(type(resnet.WEIGHTS), "get_state_dict", refuse)
    with pytest.raises(ValueError, match=r"resnet34-.*\.pth.*no route.*put that file into"):
        resnet.build(weights=None, **PLAIN)


def test_images_are_scaled_channel_by_channel():
    network = Normalized(nn.Identity(), [0, 0.5, 1], [1, 0.5, 2])
    found = network(torch.ones(1, 3, 1, 1))
    assert found.flatten().tolist() == [1, 1, 0]


def response(network, images, cell):
    """Return where a feature cell responds to images (px, x and y): its gradient's centroid."""
    images.requires_grad_()
    loss = network(images)[:, :, cell, cell].square().sum()
    (gradient,) = torch.autograd.grad(loss, images)
    weight = gradient.abs().sum((0, 1))
    return [
        float(weight.sum(axis) @ torch.arange(len(weight)).float() / weight.sum())
        for axis in (0, 1)
    ]


def evened(network):
    """Return the network with equal weights: a cell responds to its whole window alike."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network.eval()


def test_the_windows_of_cells_are_centered_where_strides_and_padding_say():
    """A layer moves the first window by stride so far x ((kernel - 1) / 2 - padding before)."""
    lite = 1 * (1 - 0) + 2 * (1 - 0) + 4 * (2 - 1) + 8 * (1 - 0)  # kernels 3, 3, 5, 3
    images = torch.full((1, 3, 288, 288), 0.01)  # below where ReLU6 saturates
    found = response(evened(efficientnet_lite.build(**PLAIN)), images, 8)
    assert found == pytest.approx([16 * 8 + lite] * 2, abs=0.01)
    layers = 1 * (3 - 3) + 2 * (1 - 1) + 4 * (1 - 1) + 8 * (1 - 1)  # kernels 7, 3, 3, 3
    trunk = resnet.trunk()
    trunk.maxpool = nn.AvgPool2d(3, 2, 1)  # a maximum of equals sends its gradient to the first
    found = response(evened(trunk), images, 9)
    assert found == pytest.approx([16 * 9 + layers] * 2, abs=0.01)


def test_trained_features_respond_near_the_center_of_their_own_pixels(lite):
    """Trained weights lean against the padding: 9.5 px, not 15; ``origin`` is the tile's center."""
    entry = configuration("cpu").backbones["efficientnet_lite0"]
    torch.manual_seed(0)
    found = response(
        Normalized(lite.network, [0.498] * 3, [0.502] * 3), torch.rand(4, 3, 224, 224), 6
    )
    assert np.array(found) - 16 * 6 == pytest.approx(9.5, abs=1)
    assert entry.origin == (entry.stride - 1) / 2
