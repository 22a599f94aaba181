"""On a GPU: every method's step is repeated bit by bit and without a wait, and is the CPU's.

All of it needs a GPU, so that nothing here runs elsewhere; ``test_gpu_steps`` says what can be
said without one.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_arrays
from spies import Killed, kill_hard, same_results, stop_at
from test_contract import configured

from mist_bench.baselines.parts.masks import lapsum_top_k, sinkhorn_top_k, soft_top_k, sparse_top_k
from mist_bench.bench.cases import made_up
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.models.tensors import read
from mist_bench.run import training
from mist_bench.run.batches import make_batch
from mist_bench.run.gpu_lease import VISIBLE, listed_gpus
from mist_bench.run.method import build_method, seed_torch, use_deterministic_torch
from mist_bench.run.prediction import predict_split
from mist_bench.run.training import narrow_products

if not torch.cuda.is_available():
    pytest.skip("torch finds no GPU", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
B = 2
every_method = pytest.mark.parametrize("spec", configured(("smoke", "cpu", "paper")))
OPERATORS = {
    "exact": lambda scores: soft_top_k(scores, 3, epsilon=0.1),
    "lapsum": lambda scores: lapsum_top_k(scores, 3, temperature=0.05),
    "sparse": lambda scores: sparse_top_k(scores, 3, temperature=0.1),
    "sinkhorn": lambda scores: sinkhorn_top_k(scores, 3, epsilon=0.5, iterations=100),
}


@pytest.fixture(autouse=True)
def deterministic():
    use_deterministic_torch(1)
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.empty_cache()


def stepped(spec):
    """Return the weights and scalars after two steps, in the second of which no wait is allowed."""
    method = build_method(spec, GPU).train()
    seed_torch(spec.seed, "method")
    arrays = made_up(spec.task, B)
    rows = []
    for mode in ("default", "error"):  # the first makes handles and moments, for which torch waits
        batch = make_batch(arrays, [*range(B)], method.supervision, GPU, spec.task)
        torch.cuda.set_sync_debug_mode(mode)
        rows.append(method.train_step(batch))
        torch.cuda.set_sync_debug_mode("default")
    return {name: one.cpu() for name, one in method.state_dict().items()}, read(rows)


@every_method
def test_a_step_never_waits_and_is_repeated_bit_by_bit(spec):
    (weights, rows), (others, other_rows) = stepped(spec), stepped(spec)
    assert rows == other_rows
    assert all(np.isfinite(value) for row in rows for value in row.values())
    for name, one in weights.items():
        assert one.equal(others[name]), name


@every_method
def test_what_is_predicted_is_what_a_cpu_predicts(spec):
    """But for equal scores, which rounding may order otherwise, so that boxes are compared whole.

    Weights are drawn on the CPU and equal on both.
    """
    images = made_up(spec.task, B)["images"]
    found = {}
    for device in (CPU, GPU):
        method = build_method(spec, device)
        found[device] = predict_split(method, images, B, device)
    for ours, theirs in zip(found[GPU], found[CPU], strict=True):
        assert len(ours.scores) == len(theirs.scores)
        torch.testing.assert_close(
            ours.scores.sort().values, theirs.scores.sort().values, rtol=1e-3, atol=1e-4
        )
        if theirs.heatmap is not None:
            torch.testing.assert_close(ours.heatmap, theirs.heatmap, rtol=1e-3, atol=1e-4)
        far = (ours.boxes[:, None] - theirs.boxes).abs().amax(-1) > 0.05
        assert far.all(1).float().mean() <= 0.25 if len(ours.boxes) else True


def leaf(array, device):
    return torch.as_tensor(array, device=device).requires_grad_()


def sampled_and_pasted(device, rng):
    """Return values and gradients of S and of its inverse on a device, float64."""
    images, patches = rng.random((2, 3, 17, 19)), rng.random((2, 4, 3, 8, 8))
    centers, sizes = rng.uniform(-2, 20, (2, 4, 2)), rng.uniform(3, 12, (2, 4, 2))
    places = np.concatenate([centers, sizes], axis=-1)
    images, patches, boxes = (leaf(one, device) for one in (images, patches, places))
    cut, put = sample_patches(images, boxes, 8), paste_patches(patches, boxes, (17, 19))
    gradients = torch.autograd.grad(cut.sin().sum() + put.sin().sum(), [images, patches, boxes])
    return [cut, put, *gradients]


def test_patches_and_their_gradients_are_those_of_the_cpu():
    ours, theirs = (sampled_and_pasted(one, np.random.default_rng(0)) for one in (GPU, CPU))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-9)


def test_patches_are_those_of_the_gpus_own_grid_sample():
    images = torch.rand(2, 1, 21, 21, device=GPU, dtype=torch.float64)
    boxes = torch.tensor([[[9.3, 11.2, 6, 6]], [[2.0, 18.5, 10, 10]]], device=GPU).double()
    unit = torch.linspace(-0.5, 0.5, 7, device=GPU, dtype=torch.float64)
    x = boxes[:, 0, 0, None] + boxes[:, 0, 2, None] * unit  # (2, 7)
    y = boxes[:, 0, 1, None] + boxes[:, 0, 3, None] * unit
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[..., None]), dim=-1) / 10 - 1
    wanted = F.grid_sample(images, grid, align_corners=True)
    torch.testing.assert_close(sample_patches(images, boxes, 7)[:, 0], wanted)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_masks_and_their_gradients_are_those_of_the_cpu(operator):
    numbers = np.random.default_rng(0).random((4, 30))
    weights = torch.from_numpy(np.random.default_rng(1).random((4, 30)))
    found = []
    for device in (GPU, CPU):
        scores = leaf(numbers, device)
        mask = operator(scores)
        (slope,) = torch.autograd.grad((mask * weights.to(device)).sum(), scores)
        found.append((mask.cpu(), slope.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["mist", "soft_topk", "perturbed_topk"])
def test_a_killed_run_goes_on_to_the_same_bits(tiny_spec, train_tiny, monkeypatch, method):
    spec = tiny_spec(method, checkpoint_every=5)
    whole = train_tiny(spec, "whole", device="cuda")
    with monkeypatch.context() as patch:
        stop_at(patch, 8, kill_hard, training, "make_batch")
        with pytest.raises(Killed):
            train_tiny(spec, "rest", device="cuda")
    rest = train_tiny(spec, "rest", device="cuda")
    same_results(whole, rest)
    record = json.loads((rest / "run.json").read_text())
    assert (record["device"], record["resumed"]) == ("cuda", 1)
    assert record["gpu"]
    assert record["peak_gpu_memory_mib"] > 0


def test_a_run_of_a_cpu_is_not_gone_on_with_by_a_gpu(tiny_spec, train_tiny, monkeypatch):
    spec = tiny_spec(checkpoint_every=5)
    with monkeypatch.context() as patch:
        stop_at(patch, 8, kill_hard, training, "make_batch")
        with pytest.raises(Killed):
            train_tiny(spec)
    with pytest.raises(ValueError, match="checkpoint of another config"):
        train_tiny(spec, device="cuda")


@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_a_step_rounds_products_only_where_told(tiny_spec, precision):
    """1 + 2^-12 is 1 in either; bfloat16's results are of its own type."""
    use_deterministic_torch(1, tf32=precision == "tf32")
    factor = torch.full((64, 64), 1 + 2**-12, device=GPU)
    with narrow_products(precision, GPU):
        assert (factor @ factor)[0, 0].item() == 64
    use_deterministic_torch(1)
    assert (factor @ factor)[0, 0].item() > 64
    method = build_method(
        tiny_spec(params={"shift": 2}) if precision == "tf32" else tiny_spec(), GPU
    ).train()
    batch = make_batch(tiny_arrays(4, seed=0), [*range(4)], "labels", GPU)
    with narrow_products(precision, GPU):
        scalars = method.train_step(batch)
    assert np.isfinite(read([scalars])[0]["loss"])
    assert {one.dtype for one in method.parameters()} == {torch.float32}


LEASE = """
from mist_bench.run.gpu_lease import gpu_lease
with gpu_lease("cuda"):
    import torch
    print(torch.cuda.device_count(), torch.ones(2, device="cuda").sum().item())
"""


def test_a_process_sees_the_one_gpu_that_it_holds(tmp_path):
    listed = listed_gpus()
    assert len(listed) >= torch.cuda.device_count()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop(VISIBLE, None)
    done = subprocess.run(
        [sys.executable, "-c", LEASE], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "2.0"]
    assert [one.name for one in tmp_path.rglob("*.lock")] == [f"{listed[0]}.0.lock"]
