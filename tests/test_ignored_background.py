"""Keypoints that the classifier takes for background leave no mark in G."""

import pytest
import torch
from conftest import run_of

from mist_bench.models.selection import gaussian_heatmap
from mist_bench.run.method import build_method
from mist_bench.types import Batch

CPU = torch.device("cpu")


@pytest.fixture
def run():
    return run_of("mist", "pascal_coco_classification")


def test_heights_are_the_peaks_of_g():
    keypoints = torch.tensor([[[1.0, 2.0], [6.0, 2.0]]])
    target = gaussian_heatmap(keypoints, (5, 9), 0.5, torch.tensor([[1.0, 0.25]]))
    assert target[0, 2, 1].item() == pytest.approx(1, abs=1e-6)
    assert target[0, 2, 6].item() == pytest.approx(0.25, abs=1e-6)
    ones = gaussian_heatmap(keypoints, (5, 9), 0.5, torch.ones(1, 2))
    assert torch.equal(ones, gaussian_heatmap(keypoints, (5, 9), 0.5))


def test_presence_is_what_background_leaves(run):
    method = build_method(run, CPU).eval()
    images, boxes = torch.randn(2, 112, 14, 14), torch.tensor([[[5.0, 6, 7, 7], [9, 9, 7, 7]]] * 2)
    expected = method.head(images, boxes)[..., 1:].sum(-1)
    torch.testing.assert_close(method.head.presence(0, images, boxes), expected)


@pytest.mark.parametrize("certain", [True, False])
def test_a_detector_learns_from_what_is_no_background(run, certain):
    """With a classifier that sees background everywhere, G is empty and maxima go down."""
    method = build_method(run, CPU)
    assert run.params["ignore_background"]
    with torch.no_grad():
        method.head.network.logits.bias[0] = 50 if certain else -50
    seen = []
    method.detector.loss = lambda heatmap, offsets, boxes, heights: (
        seen.append(heights) or heatmap.square().flatten(1).mean(1)
    )
    method.train_step(Batch(torch.randn(2, 112, 14, 14), [torch.tensor([0, 3])] * 2))
    expected = torch.zeros(2, 2) if certain else torch.ones(2, 2)
    torch.testing.assert_close(seen[0], expected)
