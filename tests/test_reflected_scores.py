"""Masks of training steps from mirrored images: scores come back to where they belong."""

import pytest
import torch
from test_baseline_soft_topk import EVERY, batch, make

from mist_bench.baselines import soft_topk


def symmetric(network):
    """Make every kernel of a region network its own reflection."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            kernel = module.weight.data
            module.weight.data = (
                kernel + kernel.flip(-1) + kernel.flip(-2) + kernel.flip(-1, -2)
            ) / 4


def test_reflections_change_nothing_for_a_symmetric_network():
    network, images = make("exact").network.eval(), batch().images
    assert not torch.allclose(network.reflected_scores(images), network(images)[0])
    symmetric(network)
    torch.testing.assert_close(network.reflected_scores(images), network(images)[0])


@pytest.mark.parametrize(("x", "y", "row", "column"), [(1, 0, 2, 3), (0, 1, 4, 5), (1, 1, 4, 3)])
def test_reflected_scores_lie_on_the_other_side(monkeypatch, x, y, row, column):
    class Reflection(soft_topk.Mirror):
        def __init__(self, images):
            super().__init__(images)
            self.x, self.y = torch.tensor([bool(x)]), torch.tensor([bool(y)])

    monkeypatch.setattr(soft_topk, "Mirror", Reflection)
    network = make("exact").network
    network.trunk, network.score = torch.nn.Conv2d(1, 1, 3, 1, 1, bias=False), torch.nn.Identity()
    network.trunk.weight.data = torch.zeros(1, 1, 3, 3)
    network.trunk.weight.data[0, 0, 2, 0] = 1  # what lies below and to the left
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0, 3, 4] = 1  # seen from row 2, column 5
    assert network.reflected_scores(images)[0].nonzero().tolist() == [[row, column]]


@pytest.mark.parametrize(("height", "width"), [(48, 50), (46, 48)])
def test_images_that_end_within_a_cell_are_not_mirrored(height, width):
    words = f"images must be a multiple of 4 px high and wide, got {height}x{width}"
    with pytest.raises(ValueError, match=words):
        make("exact").network.reflected_scores(torch.rand(1, 1, height, width))


@EVERY
def test_a_mirrored_step_moves_scores_and_classes(name):
    method, given = make(name, mirror=True).train(), batch()
    before = [p.clone() for p in method.network.parameters()]
    method.train_step(given)
    changed = [
        not torch.equal(a, b) for a, b in zip(before, method.network.parameters(), strict=True)
    ]
    assert changed[-2:] == [True, True]  # the classes
    learns = name not in ("random", "dense")  # their masks ignore scores
    assert (changed[-4], any(changed[:-4])) == (learns, True)
