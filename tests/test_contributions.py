"""Patches that add nothing to those with higher scores leave no mark in G."""

import pytest
import torch
from conftest import run_of

from mist_bench.run.method import build_method
from mist_bench.types import Batch


@pytest.fixture
def run():
    return run_of("mist", "gabor_reconstruction")


@pytest.mark.parametrize("full", [None, 0.5])
def test_a_detector_learns_from_what_adds_to_the_synthesis(run, full):
    params = run.params | {"full_contribution": full}
    method = build_method(run.model_copy(update={"params": params}), torch.device("cpu"))
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
