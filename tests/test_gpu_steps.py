"""Every method's training step on a stand-in for a GPU: no wait for it, no operator without order.

The stand-in is torch's meta device, whose tensors have shapes but no numbers. What the host would
have to read from a GPU in a step (``item``, ``if tensor``, ``nonzero``, masks as indices) fails
there by itself; what it would send without pinned memory, and operators that CUDA cannot repeat
bit by bit, fail by the two modes below. No CUDA kernel runs here.
"""

import pytest
import torch
import torch.nn.functional as F
from test_contract import batch_of, configured
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mist_bench.run.method import build_method, use_deterministic_torch
from mist_bench.types import Batch

CPU, GPU = torch.device("cpu"), torch.device("meta")
# what use_deterministic_algorithms says will throw on CUDA, torch 2.14, by their names in aten
UNORDERED = {
    *(f"_adaptive_avg_pool{d}d_backward" for d in (2, 3)),
    *(f"adaptive_max_pool{d}d_backward" for d in (2, 3)),
    *(f"fractional_max_pool{d}d_backward" for d in (2, 3)),
    *(f"max_unpool{d}d" for d in (2, 3)),
    *(f"reflection_pad{d}d_backward" for d in (1, 2, 3)),
    *(f"grid_sampler_{d}d_backward" for d in (2, 3)),
    *(f"upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d")),
    *(f"_upsample_{kind}2d_aa_backward" for kind in ("bilinear", "bicubic")),
    *("upsample_trilinear3d_backward", "avg_pool3d_backward"),
    *("nll_loss_forward", "nll_loss2d_forward", "_ctc_loss_backward", "_embedding_bag"),
    *("put", "put_", "histc", "bincount", "median", "nanmedian", "kthvalue"),
}


class Operators(TorchDispatchMode):
    """Fails at an operator without order, and at a copy to the GPU for which the host waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, options = func._overloadpacket.__name__, kwargs or {}
        assert name not in UNORDERED, f"{name} has no deterministic version on CUDA"
        tensors = [one for one in tree_leaves((args, options)) if isinstance(one, torch.Tensor)]
        if name == "_to_copy":
            arrives = options.get("device") == GPU and tensors[0].device == CPU
            assert not arrives or options.get("non_blocking"), "the host waits for a copy"
        else:  # numbers of the CPU without a dimension travel with the kernel
            assert len({one.device for one in tensors if one.dim() > 0}) < 2, f"{name} on two"
        return func(*args, **options)


class Constants(TorchFunctionMode):
    """Fails where numbers of Python become a tensor of the GPU, which is such a copy, too."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor):
            assert made.device == CPU, f"the host waits for a copy: {args}"
        return made


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    """Set what training sets; the first use of a mode imports for seconds."""
    use_deterministic_torch(1)
    with Operators():
        torch.zeros(1, device=GPU)


def on_gpu(spec):
    """Return a method whose weights, buffers and optimizers are on the stand-in."""
    method = build_method(spec, CPU)
    before = list(method.parameters())
    moved = dict(zip(before, method.to(GPU).parameters(), strict=True))
    for optimizer in method.optimizers.values():
        for group in optimizer.param_groups:
            group["params"] = [moved[one] for one in group["params"]]
            group["fused"] = None  # as build_method leaves it on a GPU
    return method.train()


def moved(batch):
    """Return a batch on the stand-in."""
    parts = {name: part for name, part in vars(batch).items() if part is not None}
    images = parts.pop("images").to(GPU)
    return Batch(images, **{k: [one.to(GPU) for one in part] for k, part in parts.items()})


@pytest.mark.parametrize("spec", configured(("smoke", "paper")))
def test_a_step_never_waits_for_a_gpu_and_has_an_order(spec):
    method = on_gpu(spec)
    batch = moved(batch_of(spec, method.supervision))
    with Constants(), Operators():
        scalars = method.train_step(batch)
    assert "loss" in scalars
    assert {value.device for value in scalars.values()} == {GPU}
    assert not any(value.requires_grad for value in scalars.values())


@pytest.mark.parametrize(("device", "fused"), [(CPU, True), (GPU, None)])
def test_adam_is_fused_on_a_cpu_only(tiny_spec, device, fused):
    optimizers = build_method(tiny_spec("mist", 0, {}), device).optimizers
    assert [one.param_groups[0]["fused"] for one in optimizers.values()] == [fused, fused]


def zeros(*shape):
    return torch.zeros(shape, device=GPU, requires_grad=True)


GRID = torch.zeros(1, 4, 4, 2, device=GPU)


UNORDERED_IS_SAID, BLOCKED, MIXED = "has no deterministic version", "waits for a copy", "on two"
UNREADABLE = "meta"  # torch's own words, of whatever has no numbers to give


@pytest.mark.parametrize(
    ("words", "act"),
    [
        (
            UNORDERED_IS_SAID,
            lambda: F.grid_sample(zeros(1, 1, 4, 4), GRID, align_corners=True).sum().backward(),
        ),
        (
            UNORDERED_IS_SAID,
            lambda: F.pad(zeros(1, 1, 4, 4), (1, 1, 1, 1), "reflect").sum().backward(),
        ),
        (UNORDERED_IS_SAID, lambda: F.adaptive_avg_pool2d(zeros(1, 1, 4, 4), 2).sum().backward()),
        (UNORDERED_IS_SAID, lambda: torch.bincount(zeros(3).long())),
        (UNREADABLE, lambda: zeros(3).sum().item()),
        (UNREADABLE, lambda: zeros(3).tolist()),
        (UNREADABLE, lambda: bool(zeros(3).sum() > 0)),
        (UNREADABLE, lambda: zeros(3)[zeros(3) > 0]),
        (UNREADABLE, lambda: zeros(3).cpu()),
        (BLOCKED, lambda: torch.rand(3).to(GPU)),
        (BLOCKED, lambda: torch.tensor([1.0], device=GPU)),
        (BLOCKED, lambda: zeros(3).new_tensor(2.0)),
        (MIXED, lambda: zeros(3)[torch.tensor([0, 1])]),
        (MIXED, lambda: zeros(2, 2) @ torch.rand(2, 2)),
        (MIXED, lambda: torch.arange(3) + zeros(3)),
    ],
)
def test_what_waits_or_has_no_order_is_noticed(words, act):
    # of the modes, and of the meta device
    with Constants(), Operators(), pytest.raises((AssertionError, RuntimeError), match=words):
        act()


def test_what_neither_waits_nor_lacks_order_passes():
    with Constants(), Operators():
        F.grid_sample(torch.zeros(1, 1, 4, 4, device=GPU), zeros(1, 4, 4, 2), align_corners=True)
        F.pad(torch.zeros(1, 1, 4, 4, device=GPU), (1, 1, 1, 1), "reflect")
        F.interpolate(zeros(1, 1, 4, 4), scale_factor=2, mode="nearest").sum().backward()
        torch.rand(3).to(GPU, non_blocking=True)
        zeros(3) * torch.tensor(2.0)
