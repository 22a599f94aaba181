"""The precision of training: what it changes in a step, and that a run can go on in it."""

import pytest
import torch
from conftest import tiny_arrays
from safetensors.torch import load_file
from spies import Killed, curves, kill_hard, same_results, stop_at

from mist_bench.run import training
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method, use_deterministic_torch
from mist_bench.run.training import narrow_products

CPU = torch.device("cpu")


def in_training(precision):
    """Return the type and value of a product of float32 matrices in a training step."""
    factor = torch.tensor([[1.001]])  # 1.0 in bfloat16, whose step is 1/128 there
    with narrow_products(precision, CPU):
        product = factor @ factor
    return product.dtype, product.item()


def test_bfloat16_rounds_the_factors_of_a_product_and_nothing_else_does():
    assert in_training("bfloat16") == (torch.bfloat16, 1.0)
    for precision in ("float32", "tf32"):
        kind, value = in_training(precision)
        assert kind == torch.float32
        assert value == pytest.approx(1.001**2, rel=1e-6)


def test_a_pass_without_gradient_does_not_cut_off_the_next_one(tiny_mist):
    """As it would if autocast kept the narrow weights of the pass that finds keypoints."""
    method = tiny_mist(shift=2)
    batch = make_batch(tiny_arrays(4, seed=0), list(range(4)), "labels", CPU)
    with narrow_products("bfloat16", CPU):
        method.train_step(batch)
    assert all(one.grad is not None and one.grad.any() for one in method.detector.parameters())


@pytest.mark.parametrize("method", ["mist", "channelwise", "soft_topk", "lapsum"])
def test_what_keypoints_and_masks_are_computed_from_is_float32(tiny_spec, method):
    built, images = build_method(tiny_spec(method), CPU), torch.rand(2, 1, 24, 24)
    with narrow_products("bfloat16", CPU):
        if method == "mist":
            found = [*built.detector(images), built.head(images, torch.full((2, 2, 4), 12.0))]
        elif method == "channelwise":
            found = built.locate(images)
        else:
            found = built.network(images)
    assert {one.dtype for one in found} == {torch.float32}


def test_a_step_goes_on_with_the_weights_that_it_has_updated():
    """As the step of x does in the order tau, x, eta."""
    weight = torch.nn.Parameter(torch.ones(1, 1))
    with narrow_products("bfloat16", CPU):
        (torch.ones(1, 1) @ weight).sum().backward()
        with torch.no_grad():
            weight -= weight.grad / 2
        assert (torch.ones(1, 1) @ weight).item() == 0.5


@pytest.mark.parametrize("tf32", [True, False])
def test_gpus_round_to_tf32_only_where_told(tf32):
    use_deterministic_torch(1, tf32=tf32)
    assert torch.backends.cuda.matmul.allow_tf32 == tf32
    assert torch.backends.cudnn.allow_tf32 == tf32
    use_deterministic_torch(1)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("method", ["mist", "soft_topk"])
def test_a_run_in_bfloat16_goes_on_where_it_was_and_keeps_float32_weights(
    tiny_spec, train_tiny, tmp_path, monkeypatch, method
):
    spec = tiny_spec(method, precision="bfloat16", checkpoint_every=5)
    whole = train_tiny(spec, "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 8, kill_hard, training, "make_batch")
        with pytest.raises(Killed):
            train_tiny(spec, "rest")
    same_results(whole, train_tiny(spec, "rest"))
    kept = load_file(whole / "weights.safetensors").values()
    assert {one.dtype for one in kept if one.is_floating_point()} == {torch.float32}
    narrow, wide = curves(whole), curves(train_tiny(tiny_spec(method), "wide"))
    assert narrow["train"] != wide["train"]
