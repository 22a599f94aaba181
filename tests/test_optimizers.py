"""The optimizer that methods share, against torch's plain one."""

import copy

import pytest
import torch
from torch import nn

from mist_bench.models.optimizers import adam
from mist_bench.models.specs import AdamSpec


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_the_fused_adam_is_adam_whatever_the_layouts(layout, weight_decay):
    """A gradient that lay otherwise than its weight would move the wrong weights, silently."""
    torch.manual_seed(0)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    one = one.append(nn.Linear(18, 2)).to(memory_format=layout)
    other = copy.deepcopy(one)
    betas = (0.5, 0.9)
    spec = AdamSpec(lr=0.01, betas=betas, weight_decay=weight_decay)
    fused = adam(one.parameters(), spec)
    plain = torch.optim.Adam(
        other.parameters(), 0.01, betas, weight_decay=weight_decay, foreach=False, fused=False
    )
    assert fused.param_groups[0]["fused"]
    for inputs in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        images = torch.rand(4, 3, 5, 5).contiguous(memory_format=inputs)
        for network, optimizer in ((one, fused), (other, plain)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    for weights, wanted in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weights, wanted, rtol=0, atol=1e-6)
