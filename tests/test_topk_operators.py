"""What every top-K operator must do, exact or sampled, at any size; values are in its own file."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mist_bench.baselines.parts.masks import lapsum_top_k, sinkhorn_top_k, soft_top_k, sparse_top_k
from mist_bench.baselines.parts.sampled_masks import (
    attention_top_k,
    perturbed_top_k,
    random_top_k,
    subset_top_k,
    uniform_mask,
)

OPERATORS = {
    "exact": partial(soft_top_k, epsilon=0.01),
    "sinkhorn": partial(sinkhorn_top_k, epsilon=0.1, iterations=50),
    "lapsum": partial(lapsum_top_k, temperature=0.005),
    "sparse": partial(sparse_top_k, temperature=0.03),
    "perturbed": partial(perturbed_top_k, sigma=0.05, samples=4),
    "subset": partial(subset_top_k, temperature=0.1),
    "attention": attention_top_k,
    "random": random_top_k,
    "uniform": uniform_mask,
}
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
EVERY_NAME = pytest.mark.parametrize("name", OPERATORS)
# relaxed subsets and attention give weights instead, which may exceed 1 (their docstrings)
FRACTIONS = pytest.mark.parametrize("name", sorted(OPERATORS.keys() - {"subset", "attention"}))


def seeded(operator, scores, count):
    """Return the mask of the same draws every time."""
    torch.manual_seed(3)
    return operator(scores, count)


@EVERY_OPERATOR
@pytest.mark.parametrize(("size", "count"), [(1, 1), (2, 1), (30, 1), (30, 30), (100_000, 9)])
def test_a_mask_of_any_size_sums_to_k_and_has_a_finite_gradient(operator, size, count):
    scores = torch.rand(2, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = seeded(operator, scores, count)
    assert mask.shape == scores.shape
    assert mask.min() >= 0
    np.testing.assert_allclose(mask.detach().double().sum(1), [count] * 2, rtol=1e-4)
    if mask.requires_grad:
        (grad,) = torch.autograd.grad(mask.square().sum(), scores)
        assert torch.isfinite(grad).all()


@FRACTIONS
def test_a_mask_is_a_fraction(name):
    scores = 3 * torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    for count in (1, 5, 20):
        mask = seeded(OPERATORS[name], scores, count)
        assert mask.max() <= 1 + 1e-6


@FRACTIONS
@pytest.mark.parametrize("size", [2, 400, 100_000])
def test_a_mask_of_all_locations_is_not_above_one(name, size):
    mask = seeded(OPERATORS[name], torch.rand(1, size), size)
    assert mask.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["subset", "attention"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_weights_are_up_to_k(name, count):
    scores = torch.cat([torch.randn(50, 8), 300 * torch.randn(50, 8)])
    mask = seeded(OPERATORS[name], scores, count)
    assert mask.min() >= 0
    assert mask.max() <= count * (1 + 1e-6)
    assert count == 1 or mask.max() > 1.5


@EVERY_OPERATOR
def test_other_images_of_the_batch_do_not_matter(operator):
    generator = torch.Generator().manual_seed(0)
    own, others = torch.rand(1, 40, generator=generator), torch.rand(2, 3, 40, generator=generator)
    first, second = (seeded(operator, torch.cat([own, one]), 4)[0] for one in others)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@EVERY_OPERATOR
def test_ties_share_on_average(operator):
    mask = seeded(operator, torch.full((10_000, 4), 2.5), 2)
    np.testing.assert_allclose(mask.mean(0), [0.5] * 4, atol=0.02)


@EVERY_NAME
def test_ties_at_the_boundary_share_what_is_left(name):
    scores = torch.tensor([0, 0.5, 0.5, 0.5, 1]).expand(20_000, 5)
    low, *tied, high = seeded(OPERATORS[name], scores, 2).double().mean(0).tolist()
    np.testing.assert_allclose(tied, [sum(tied) / 3] * 3, atol=0.02)
    if name in ("exact", "lapsum", "sparse", "perturbed"):  # sharp: the highest is all there
        np.testing.assert_allclose([low, *tied, high], [0, 1 / 3, 1 / 3, 1 / 3, 1], atol=0.02)
    elif name not in ("random", "uniform"):
        assert low + 0.05 < min(tied) < max(tied) + 0.05 < high


@FRACTIONS
def test_all_of_all_is_everything(name):
    mask = seeded(OPERATORS[name], torch.randn(20, 6), 6)
    np.testing.assert_allclose(mask, np.ones((20, 6)), atol=1e-6)


KINDS = pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)


@EVERY_OPERATOR
@KINDS
def test_scores_of_16_bits_are_computed_in_float32(operator, kind):
    wide = torch.float64 if kind == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 400, generator=generator).to(kind)
    mask = seeded(operator, scores, 30)
    assert mask.dtype == kind
    assert mask.equal(seeded(operator, scores.to(wide), 30).to(kind))
    np.testing.assert_allclose(mask.double().sum(1), [30] * 2, rtol=0.01)


@EVERY_OPERATOR
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss_scale", [1e-3, 1])
def test_the_gradient_of_16_bits_is_float32s(operator, kind, loss_scale):
    generator = torch.Generator().manual_seed(0)
    scores = torch.stack([torch.full((6,), 0.5), torch.randn(6, generator=generator)]).to(kind)
    given = (loss_scale * torch.arange(6)).to(kind).expand(2, 6)
    grads = []
    for x in (scores, scores.float()):
        mask = seeded(operator, x.requires_grad_(), 2)
        if mask.requires_grad:
            grads += torch.autograd.grad(mask, x, given.to(x.dtype))
    if grads:
        narrow, wide = grads
        assert narrow.equal(wide.to(kind))
        # of equal scores it is up to 1 / 1e-5 of what is given, and float16 ends at 65504
        assert narrow.isfinite().all() or loss_scale == 1


@EVERY_NAME
@pytest.mark.parametrize(
    ("kind", "far"), [(torch.float16, 6e4), (torch.float32, 3e38), (torch.float64, 1e308)], ids=str
)
def test_scores_as_far_apart_as_numbers_can_be(name, kind, far):
    scores = torch.tensor([[-far, 0, 1, far]], dtype=kind, requires_grad=True)
    if name == "subset" and kind != torch.float16:  # they are divided by the temperature
        with pytest.raises(ValueError, match="does not sum to 2: scale scores down"):
            seeded(OPERATORS[name], scores, 2)
        return
    mask = seeded(OPERATORS[name], scores, 2)
    assert mask.min() >= 0
    assert mask.sum().item() == pytest.approx(2, rel=1e-3)
    if mask.requires_grad:
        assert torch.autograd.grad(mask[0, 2], scores)[0].isfinite().all()
    if name in ("exact", "lapsum", "sparse", "sinkhorn"):
        near = seeded(OPERATORS[name], torch.tensor([[0, 0.5, 0.5, 1]]), 2)
        np.testing.assert_allclose(mask[0].detach(), near[0], atol=1e-3)


def test_attention_says_where_a_difference_of_scores_is_no_number():
    scores = torch.tensor([[-3e38, 0, 1, 3e38]])
    with pytest.raises(ValueError, match="does not sum to 4: scale scores down"):
        attention_top_k(scores, 4)


@EVERY_OPERATOR
@pytest.mark.parametrize("kind", [torch.int64, torch.bool])
def test_scores_must_be_floating_point(operator, kind):
    with pytest.raises(ValueError, match=f"scores must be floating point, got {kind}"):
        operator(torch.tensor([[0, 1, 2, 3]]).to(kind), 2)


@EVERY_OPERATOR
def test_the_host_never_waits_for_a_gpu(operator):
    scores = torch.rand(2, 30, device="meta", requires_grad=True)  # no numbers to wait for
    mask = operator(scores, 4)
    assert mask.shape == (2, 30)
    if mask.requires_grad:
        assert torch.autograd.grad(mask.sum(), scores)[0].shape == (2, 30)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_gradient_of_a_drawn_subset_is_the_finite_difference(count):
    torch.manual_seed(count)
    scores = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    operator = partial(subset_top_k, temperature=0.7)
    assert gradcheck(lambda x: seeded(operator, x, count), (scores,))


def test_gradient_of_perturbed_scores_is_the_finite_difference_of_their_mean():
    # far below the noise: the mean is smooth, and both sides use many draws
    operator = partial(perturbed_top_k, sigma=0.5, samples=400_000)
    scores = torch.tensor([[0.0, 0.2, 0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    seeded(operator, scores, 2)[0, 1].backward()
    step = torch.tensor([[0.0, 0.05, 0.0, 0.0]], dtype=torch.float64)
    above, below = (seeded(operator, scores.detach() + sign * step, 2)[0, 1] for sign in (1, -1))
    assert scores.grad[0, 1].item() == pytest.approx((above - below).item() / 0.1, abs=0.02)
