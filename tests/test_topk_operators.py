"""What every top-K operator must do, exact or sampled; their values are in files of their own."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.autograd import gradcheck

from mist_bench.baselines.parts import masks
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
SMOOTH = {  # for finite differences
    "exact": partial(soft_top_k, epsilon=0.1),
    "sinkhorn": partial(sinkhorn_top_k, epsilon=0.5, iterations=100),
    "lapsum": partial(lapsum_top_k, temperature=0.05),
    "sparse": partial(sparse_top_k, temperature=0.1),
    "subset": partial(subset_top_k, temperature=0.7),
}
HARD = {  # hardly soft; the softmaxes of "subset" take scores as they are
    "exact": partial(soft_top_k, epsilon=1e-3),
    "sinkhorn": partial(sinkhorn_top_k, epsilon=0.01, iterations=200),
    "lapsum": partial(lapsum_top_k, temperature=1e-3),
    "sparse": partial(sparse_top_k, temperature=1e-3),
    "perturbed": partial(perturbed_top_k, sigma=1e-3, samples=4),
    "subset": lambda scores, count: subset_top_k(60 * scores, count, temperature=0.1),
}
EXACT = ("exact", "sinkhorn", "lapsum", "sparse")
# relaxed subsets and attention give weights instead, which may exceed 1 (their docstrings)
WEIGHTS = ("subset", "attention")
NARROW = (torch.float16, torch.bfloat16)
EVERY_OPERATOR = pytest.mark.parametrize("name", OPERATORS)
EVERY_EXACT = pytest.mark.parametrize("name", EXACT)


def seeded(operator, scores, count):
    """Return the mask of the same draws every time."""
    torch.manual_seed(3)
    return operator(scores, count)


def random_scores(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def check_mask(name, scores, count, operators=OPERATORS):
    """Check what holds for any finite scores and return the mask."""
    mask = seeded(operators[name], scores.requires_grad_(), count)
    assert (mask.shape, mask.dtype) == (scores.shape, scores.dtype)
    assert mask.min() >= 0
    assert mask.max() <= (count if name in WEIGHTS else 1) * (1 + 1e-5)
    np.testing.assert_allclose(mask.detach().double().sum(1), [count] * len(mask), rtol=1e-4)
    if mask.requires_grad:
        (grad,) = torch.autograd.grad(mask.square().sum(), scores, retain_graph=True)
        assert grad.isfinite().all()
    return mask.detach()


SCORES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10),
    elements=st.floats(-1e6, 1e6, width=32),
)


@EVERY_OPERATOR
@settings(deadline=None, max_examples=20)
@given(scores=SCORES, data=st.data())
def test_a_mask_of_any_scores(name, scores, data):
    scores = torch.tensor(scores)
    count = data.draw(st.integers(1, scores.shape[1]))
    operators = OPERATORS | SMOOTH  # Sinkhorn's has converged
    mask = check_mask(name, scores, count, operators)
    if name in (*EXACT, "uniform"):  # the higher the score the more, wherever it is
        assert (mask.gather(1, scores.argsort(1)).diff(dim=1) >= -1e-9).all()
        order = torch.tensor(data.draw(st.permutations(range(scores.shape[1]))))
        permuted = operators[name](scores[:, order], count)
        np.testing.assert_allclose(permuted.detach(), mask[:, order], atol=1e-9)


@EVERY_OPERATOR
def test_a_mask_of_any_size(name):
    for size, count in ((1, 1), (2, 1), (30, 30), (400, 9), (100_000, 9)):
        check_mask(name, random_scores(2, size), count)
    if name in WEIGHTS:  # by much
        scores = torch.cat([random_scores(50, 8), 300 * random_scores(50, 8)])
        assert check_mask(name, scores, 5).max() > 1.5
    else:
        for size in (6, 100_000):
            np.testing.assert_allclose(check_mask(name, random_scores(1, size), size), 1, atol=1e-6)


@EVERY_EXACT
def test_all_locations_are_selected_without_gradient(name):
    for size in (1, 5):
        scores = random_scores(2, size).double().requires_grad_()
        mask = OPERATORS[name](scores, size)
        (grad,) = torch.autograd.grad((mask * torch.arange(size)).sum(), scores)
        np.testing.assert_allclose(mask.detach(), np.ones((2, size)), atol=1e-9)
        np.testing.assert_allclose(grad, np.zeros((2, size)), atol=1e-9)


@EVERY_OPERATOR
def test_other_images_of_the_batch_do_not_matter(name):
    own, others = random_scores(1, 40), (random_scores(3, 40), 5 * random_scores(3, 40))
    first, second = (seeded(OPERATORS[name], torch.cat([own, one]), 4)[0] for one in others)
    assert first.equal(second)


@EVERY_OPERATOR
def test_ties_share_what_is_left_on_average(name):
    equal = seeded(OPERATORS[name], torch.full((10_000, 4), 2.5), 2)
    np.testing.assert_allclose(equal.mean(0), [0.5] * 4, atol=0.02)
    scores = torch.tensor([0, 0.5, 0.5, 0.5, 1]).expand(20_000, 5)
    low, *tied, high = seeded(OPERATORS[name], scores, 2).double().mean(0).tolist()
    np.testing.assert_allclose(tied, [sum(tied) / 3] * 3, atol=0.02)
    if name in ("exact", "lapsum", "sparse", "perturbed"):  # sharp: the highest is all there
        np.testing.assert_allclose([low, *tied, high], [0, 1 / 3, 1 / 3, 1 / 3, 1], atol=0.02)
    elif name not in ("random", "uniform"):
        assert low + 0.05 < min(tied) < max(tied) + 0.05 < high


@pytest.mark.parametrize("name", HARD)
def test_the_limit_is_the_hard_selection(name):
    scores = torch.tensor([[0.1, 1.3, 0.3, 1.0, 0.2]], requires_grad=True)
    mask = seeded(HARD[name], scores, 2)
    (grad,) = torch.autograd.grad(mask[0, 0], scores)
    np.testing.assert_allclose(mask[0].detach(), [0, 1, 0, 1, 0], atol=1e-3)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name", [*EXACT, "perturbed"])
def test_a_mask_ignores_the_scale_of_scores(name):
    scores = random_scores(2, 30).double()
    masks = [seeded(OPERATORS[name], given, 3) for given in (scores, 7 * scores - 100)]
    np.testing.assert_allclose(*masks, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_is_the_finite_difference(name):
    for count in (1, 3, 6):
        scores = random_scores(2, 7).double().requires_grad_()
        assert gradcheck(lambda x: seeded(SMOOTH[name], x, count), (scores,))  # noqa: B023


@EVERY_OPERATOR
def test_scores_of_16_bits_are_computed_in_float32(name):
    for kind in (*NARROW, torch.float32, torch.float64):
        scores = random_scores(2, 400).to(kind)
        wide = scores.float() if kind in NARROW else scores
        mask = seeded(OPERATORS[name], scores, 30)
        assert mask.dtype == kind
        assert mask.equal(seeded(OPERATORS[name], wide, 30).to(kind))
        np.testing.assert_allclose(mask.double().sum(1), [30] * 2, rtol=0.01)


@EVERY_OPERATOR
@pytest.mark.parametrize("kind", NARROW, ids=str)
def test_the_gradient_of_16_bits_is_float32s(name, kind):
    scores = torch.stack([torch.full((6,), 0.5), random_scores(6)]).to(kind)
    for loss_scale in (1e-3, 1):
        given, grads = (loss_scale * torch.arange(6)).to(kind).expand(2, 6), []
        for x in (scores, scores.float()):
            mask = seeded(OPERATORS[name], x.requires_grad_(), 2)
            if mask.requires_grad:
                grads += torch.autograd.grad(mask, x, given.to(x.dtype))
        if grads:
            narrow, wide = grads
            assert narrow.equal(wide.to(kind))
            # of equal scores it is up to 1 / 1e-5 of what is given, and float16 ends at 65504
            assert narrow.isfinite().all() or loss_scale == 1


@EVERY_OPERATOR
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
    if name in EXACT:
        near = OPERATORS[name](torch.tensor([[0, 0.5, 0.5, 1]]), 2)
        np.testing.assert_allclose(mask[0].detach(), near[0], atol=1e-3)


@EVERY_OPERATOR
def test_scores_and_counts_that_make_no_sense_are_refused(name):
    operator, scores = OPERATORS[name], torch.tensor([[0.0, 1, 2], [0, 5, 2]])
    for value in (math.nan, math.inf, -math.inf):
        scores[1, 1] = value
        with pytest.raises(ValueError, match="scores must be finite"):
            operator(scores, 1)
    for kind in (torch.int64, torch.bool):
        with pytest.raises(ValueError, match=f"scores must be floating point, got {kind}"):
            operator(torch.tensor([[0, 1, 2, 3]]).to(kind), 2)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"cannot select {count} of 3"):
            operator(torch.rand(1, 3), count)
    with pytest.raises(ValueError, match=r"scores must be \(B, N\), got \(3,\)"):
        operator(torch.rand(3), 1)


@pytest.mark.parametrize("name", [*EXACT, "perturbed", *WEIGHTS])
def test_unchecked_as_on_a_gpu_they_spoil_the_mask_of_their_image_alone(name, monkeypatch):
    monkeypatch.setattr(masks, "is_readable", lambda _: False)
    good = seeded(OPERATORS[name], torch.tensor([[0.0, 1, 2], [0, 1, 2]]), 1)
    for value in (math.nan, math.inf, *([-math.inf] if name in EXACT else [])):
        mask = seeded(OPERATORS[name], torch.tensor([[0, 1, 2], [0, value, 2]]), 1)
        assert mask[0].equal(good[0])
        assert mask[1].isnan().any()


@EVERY_OPERATOR
def test_the_host_never_waits_for_a_gpu(name):
    scores = torch.rand(2, 30, device="meta", requires_grad=True)  # no numbers to wait for
    mask = OPERATORS[name](scores, 4)
    assert mask.shape == (2, 30)
    if mask.requires_grad:
        assert torch.autograd.grad(mask.sum(), scores)[0].shape == (2, 30)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_softness_must_be_positive(value):
    for operator in (
        partial(soft_top_k, epsilon=value),
        partial(sinkhorn_top_k, epsilon=value, iterations=1),
        partial(lapsum_top_k, temperature=value),
        partial(sparse_top_k, temperature=value),
        partial(perturbed_top_k, sigma=value, samples=1),
        partial(subset_top_k, temperature=value),
    ):
        with pytest.raises(ValueError, match=f"must be positive and .*, got {value}"):
            operator(torch.rand(1, 3), 1)


def test_draws_and_iterations_are_at_least_one():
    with pytest.raises(ValueError, match="the samples must be positive, got 0"):
        perturbed_top_k(torch.rand(1, 3), 1, sigma=1, samples=0)
    with pytest.raises(ValueError, match="the iterations must be positive, got 0"):
        sinkhorn_top_k(torch.rand(1, 3), 1, epsilon=0.1, iterations=0)
