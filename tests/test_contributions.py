"""Patches that add nothing to those with higher scores leave no mark in G."""

import pytest
import torch

from mist_bench import mist_autoencoder
from mist_bench.config import resolve as settings
from mist_bench.config import targets
from mist_bench.types import Batch

NAME = "gabor_reconstruction"


@pytest.fixture
def run():
    return settings.run_spec(settings.load(targets.SETTINGS, {"preset": "smoke"}), NAME, "mist", 0)


@pytest.mark.parametrize("full", [None, 0.5])
def test_a_detector_learns_from_what_adds_to_the_synthesis(run, full):
    torch.manual_seed(0)
    method = mist_autoencoder.build(run.task, **{**run.params, "full_contribution": full})
    seen, loss = [], method.detector.loss
    method.detector.loss = lambda *args, **heights: seen.append(heights) or loss(*args, **heights)
    images = torch.rand(2, *run.task.image_size)
    images[1] = 0.5  # gray: nothing to explain
    method.train_step(Batch(images))
    if full is None:
        assert seen == [{}]
        return
    heights = seen[0]["heights"]
    assert heights.shape == (2, run.task.num_instances)
    assert not heights.requires_grad
    assert heights.min() >= 0
    assert heights.max() <= 1
    assert torch.equal(heights[1], torch.zeros_like(heights[1]))


@pytest.mark.parametrize(
    "change", [{"full_contribution": 0}, {"target_sigma": 0}, {"scales": [1.0, 1.4]}]
)
def test_contributions_that_cannot_be_are_refused(run, change):
    with pytest.raises(ValueError, match="full_contribution must be > 0 and needs"):
        mist_autoencoder.build(run.task, **{**run.params, "full_contribution": 0.5, **change})
