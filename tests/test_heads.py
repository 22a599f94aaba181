"""The classifier over boxes and its loss."""

import pytest
import torch
from torch import nn

from mist_bench.models.heads import (
    BoxClassifier,
    CompactClassifier,
    classification_loss,
    label_histogram,
)


class Means(nn.Module):
    """Two logits per patch: its mean and 0."""

    def forward(self, patches):
        mean = patches.mean((1, 2, 3))
        return torch.stack([mean, torch.zeros_like(mean)], dim=-1)


def test_the_loss_by_hand():
    probs = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]])
    histogram = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # means are (0.75, 0.25) and (0, 1)
    assert classification_loss(probs, histogram).tolist() == pytest.approx([0.0625, 1.0])


def test_the_loss_is_blind_to_the_order_of_patches():
    probs = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    histogram = torch.full((2, 3), 1 / 3)
    torch.testing.assert_close(
        classification_loss(probs, histogram), classification_loss(probs.flip(1), histogram)
    )


def test_the_histogram_by_hand():
    labels = [torch.tensor([2, 0, 2, 2]), torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
    assert label_histogram(labels, 3).tolist() == [[0.25, 0, 0.75], [0, 1, 0], [0, 0, 0]]


def test_probabilities_sum_to_one_and_belong_to_their_box():
    classifier = BoxClassifier(Means(), 2, patch_size=4, window=0)
    images = torch.zeros(2, 1, 20, 20)
    images[1, 0, :, 10:] = 3
    boxes = torch.tensor([[[4.0, 10, 4, 4], [15, 10, 4, 4]]] * 2)
    probs = classifier(images, boxes)
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 2))
    high = torch.tensor([3.0, 0.0]).softmax(0)[0].item()
    assert probs[..., 0].flatten().tolist() == pytest.approx([0.5, 0.5, 0.5, high])


def test_the_window_fades_towards_the_edge():
    window = BoxClassifier(Means(), 2, patch_size=3, window=0.5).window
    edge = torch.exp(torch.tensor(-2.0))
    axis = torch.stack([edge, torch.tensor(1.0), edge])
    torch.testing.assert_close(window, axis[:, None] * axis)
    assert BoxClassifier(Means(), 2, patch_size=3, window=0).window.equal(torch.ones(3, 3))


def test_the_window_multiplies_patches():
    classifier = BoxClassifier(Means(), 2, patch_size=3, window=0.5)
    probs = classifier(torch.ones(1, 1, 9, 9), torch.tensor([[[4.0, 4.0, 4, 4]]]))
    expected = torch.stack([classifier.window.mean(), torch.tensor(0.0)]).softmax(0)
    torch.testing.assert_close(probs[0, 0], expected)


def test_the_window_is_no_weight():
    assert list(BoxClassifier(Means(), 2, patch_size=3, window=0.5).state_dict()) == []


def test_the_compact_classifier_takes_patches_of_any_size():
    network = CompactClassifier(in_channels=2, channels=4, num_classes=7).eval()
    assert network(torch.rand(3, 2, 12, 12)).shape == (3, 7)
    assert network(torch.rand(3, 2, 20, 20)).shape == (3, 7)
