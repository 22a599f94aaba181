"""Heads on frozen features: shapes, receptive fields, and the sizes of the official code."""

import pytest
import torch

from mist_bench.models.feature_heads import FeatureClassifier, FeatureHeatmap
from mist_bench.models.heads import build_classifier
from mist_bench.models.heatmap import build_heatmap
from mist_bench.models.specs import ClassifierSpec, HeatmapSpec


def count(network):
    return sum(one.numel() for one in network.parameters())


def test_official_sizes():
    # 3x3, 256 -> 32, and 1x1, 32 -> 3, with biases
    heatmap = build_heatmap(
        256, HeatmapSpec(networks="official_features", channels=32, blocks=1, stride=1), outputs=3
    )
    assert count(heatmap) == 9 * 256 * 32 + 32 + 32 * 3 + 3
    classifier = build_classifier(
        256, 21, ClassifierSpec(networks="official_features", channels=512, patch_size=32)
    )
    # 1x1, 256 -> 512; three blocks of two 3x3 and one shared norm; dense 21
    block = 2 * (9 * 512 * 512 + 512) + 2 * 512
    assert count(classifier) == 256 * 512 + 512 + 3 * block + 512 * 21 + 21


@pytest.mark.parametrize(("blocks", "sees"), [(0, 1), (1, 3), (2, 5)])
def test_a_heatmap_sees_what_its_convolutions_do(blocks, sees):
    network = FeatureHeatmap(4, 8, blocks, 1, normalized=True).eval()
    features = torch.rand(1, 4, 9, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(features)[0, 0, 4, 4], features)
    seen = gradient[0].abs().sum(0) > 0
    assert (seen.any(0).sum().item(), seen.any(1).sum().item()) == (sees, sees)


def test_a_classifier_averages_over_the_patch():
    network = FeatureClassifier(3, 4, 0, 5, normalized=False)
    patches = torch.rand(2, 3, 6, 6)
    expected = network.logits(network.stage.pointwise(patches).mean((-2, -1)))
    torch.testing.assert_close(network(patches), expected)


def test_normalized_heads_do_not_care_about_the_scale_of_a_channel():
    torch.manual_seed(0)
    scale = torch.tensor([1.0, 10, 100])[:, None, None]
    features = torch.randn(16, 3, 7, 7)
    for network in (
        FeatureHeatmap(3, 8, 1, 3, normalized=True),
        FeatureClassifier(3, 8, 1, 4, normalized=True),
    ):
        torch.testing.assert_close(
            network(features), network(features * scale), atol=1e-3, rtol=1e-3
        )
