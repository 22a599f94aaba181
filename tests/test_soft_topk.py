"""Masks that sum to K: stored outputs, oracles, finite differences, then properties."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.optimize import brentq, minimize
from scipy.stats import laplace, logistic, uniform
from torch.autograd import gradcheck

from mist_bench.baselines.parts import masks as soft_topk
from mist_bench.baselines.parts.masks import (
    LAPLACE,
    LOGISTIC,
    RAMP,
    lapsum_top_k,
    normalize,
    sinkhorn_top_k,
    soft_top_k,
    sparse_top_k,
    threshold_top_k,
)

FAMILY = {"logistic": LOGISTIC, "laplace": LAPLACE, "ramp": RAMP}
OPERATORS = {
    "exact": partial(soft_top_k, epsilon=0.1),
    "lapsum": partial(lapsum_top_k, temperature=0.05),
    "sparse": partial(sparse_top_k, temperature=0.1),
    "sinkhorn": partial(sinkhorn_top_k, epsilon=0.5, iterations=100),
}
EVERY_SHAPE = pytest.mark.parametrize("distribution", FAMILY.values(), ids=FAMILY)
EVERY_OPERATOR = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def rows(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def published_by_iterations(scores):
    """Return the mask that the published operator's own plan gives: the smallest go to anchor 0."""
    cost = torch.stack([scores**2, (scores - 1) ** 2], dim=1) / 36
    return 6 * soft_topk._TransportPlan.apply(cost, 0.5, 0.05, 500, 1e-8)[:, 0]


@pytest.mark.parametrize(
    "smallest",
    [lambda scores: threshold_top_k(-scores, 3, LOGISTIC, 0.9), published_by_iterations],
    ids=["threshold", "iterations"],
)
def test_stored_output_of_the_published_operator(smallest):
    # google-research soft_topk, demo notebook: the 3 smallest, epsilon .05, costs over their
    # maximum 36, hence T = .05 * 36 / 2; the gradient is the one of elements 1 to 3
    scores = rows([5, 2, 3, 4, 1, 6], grad=True)
    mask = smallest(scores)
    wanted = [0.15886909, 0.84113085, 0.63542354, 0.36457655, 0.9414631, 0.05853688]
    np.testing.assert_allclose(mask[0].detach(), wanted, atol=1e-6)
    mask[0, 1:4].sum().backward()
    wanted = [0.10541585, -0.04306151, -0.07465184, -0.07465144, 0.04347444, 0.04347456]
    np.testing.assert_allclose(scores.grad[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("distribution", "temperature", "upper"),
    [
        (LOGISTIC, 0.5, 1 / (1 + math.exp(-1))),
        (LAPLACE, 0.5, 1 - 0.5 * math.exp(-1)),
        (RAMP, 2, 0.75),
    ],
)
def test_one_of_two(distribution, temperature, upper):
    # by symmetry the logistic's and Laplace's tau is 1/2; the ramp's solves (1 - 2 tau) / 2 = 1
    mask = threshold_top_k(rows([0, 1]), 1, distribution, temperature)
    np.testing.assert_allclose(mask[0], [1 - upper, upper], atol=1e-12)


@pytest.mark.parametrize("temperature", [0.001, 0.02, 0.5])
@pytest.mark.parametrize(
    ("distribution", "oracle"), [(LOGISTIC, logistic), (LAPLACE, laplace), (RAMP, uniform)]
)
def test_threshold_is_scipys(distribution, oracle, temperature):
    scores = np.random.default_rng(0).random(50)

    def excess(tau):
        return oracle.cdf((scores - tau) / temperature).sum() - 7

    tau = brentq(excess, -40, 40, xtol=1e-15)
    mask = threshold_top_k(torch.tensor(scores)[None], 7, distribution, temperature)
    np.testing.assert_allclose(mask[0], oracle.cdf((scores - tau) / temperature), atol=1e-9)


def test_sparse_mask_is_the_nearest_one():
    scores = np.array([0.0, 0.3, 0.45, 0.5, 0.9, 1.0])
    nearest = minimize(
        lambda mask: ((mask - scores / 0.4) ** 2).sum(),
        np.full(6, 0.5),
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda mask: mask.sum() - 3},
        options={"ftol": 1e-14},
    )
    mask = sparse_top_k(torch.tensor(scores)[None], 3, temperature=0.4)
    np.testing.assert_allclose(mask[0], nearest.x, atol=1e-6)
    assert (mask == 0).any()


@EVERY_OPERATOR
@pytest.mark.parametrize("count", [1, 3, 6])
def test_gradient_is_the_finite_difference(operator, count):
    torch.manual_seed(count)
    scores = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: operator(x, count), (scores,))


@EVERY_SHAPE
def test_gradient_of_the_family_is_the_finite_difference(distribution):
    torch.manual_seed(0)
    scores = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: threshold_top_k(x, 3, distribution, 0.7), (scores,))


BEYOND_FLOAT64 = pytest.mark.parametrize(
    ("values", "count", "temperature"),
    [
        ([0, 0.5, 0.5, 0.5, 1], 2, 1e-16),
        ([-1e30, 0, 0.5, 0.5, 1, 1e30], 3, 0.1),
        ([-1e308, 0.3, 0.5, 1e308], 2, 0.1),
    ],
)


@EVERY_SHAPE
@BEYOND_FLOAT64
def test_a_mask_that_does_not_sum_to_k_is_refused(distribution, values, count, temperature):
    with pytest.raises(ValueError, match=f"does not sum to {count}: scale scores down"):
        threshold_top_k(rows(values), count, distribution, temperature)


@EVERY_SHAPE
@BEYOND_FLOAT64
def test_as_on_a_gpu_a_mask_that_does_not_sum_to_k_is_spoiled(
    distribution, values, count, temperature, monkeypatch
):
    monkeypatch.setattr(soft_topk, "is_readable", lambda _: False)
    equal = [0] * len(values)
    mask = threshold_top_k(rows(equal, values), count, distribution, temperature)
    np.testing.assert_allclose(mask[0], [count / len(values)] * len(values))
    assert mask[1].isnan().all()


@EVERY_OPERATOR
def test_all_locations_are_selected_without_gradient(operator):
    scores = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    mask = operator(scores, 5)
    (grad,) = torch.autograd.grad((mask * torch.rand(5)).sum(), scores)
    np.testing.assert_allclose(mask.detach(), np.ones((2, 5)), atol=1e-9)
    np.testing.assert_allclose(grad, np.zeros((2, 5)), atol=1e-9)


@EVERY_OPERATOR
def test_a_single_location(operator):
    scores = rows([3.0], grad=True)
    mask = operator(scores, 1)
    (grad,) = torch.autograd.grad(mask.sum(), scores)
    assert mask.item() == pytest.approx(1)
    assert grad.item() == pytest.approx(0)


@EVERY_OPERATOR
def test_equal_scores_share(operator):
    mask = operator(rows([2, 2, 2, 2], [0, 1, 1, 2]), 1)
    np.testing.assert_allclose(mask[0], [0.25] * 4, atol=1e-9)
    assert mask[1, 1] == mask[1, 2]


@EVERY_SHAPE
def test_a_small_temperature_selects(distribution):
    scores = rows([0.1, 0.9, 0.3, 0.8, 0.2])
    mask = threshold_top_k(scores.requires_grad_(), 2, distribution, 1e-3)
    (grad,) = torch.autograd.grad(mask[0, 0], scores)
    np.testing.assert_allclose(mask[0].detach(), [0, 1, 0, 1, 0], atol=1e-12)
    assert torch.isfinite(grad).all()


@EVERY_OPERATOR
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(operator, value):
    with pytest.raises(ValueError, match="scores must be finite"):
        operator(rows([0, 1, 2], [0, value, 2]), 1)


@EVERY_OPERATOR
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_unchecked_as_on_a_gpu_they_spoil_the_mask_of_their_image_alone(
    operator, value, monkeypatch
):
    monkeypatch.setattr(soft_topk, "is_readable", lambda _: False)
    mask = operator(rows([0, 1, 2], [0, value, 2]), 1)
    assert mask[0].equal(operator(rows([0, 1, 2]), 1)[0])
    assert mask[1].isnan().any()


@EVERY_OPERATOR
@pytest.mark.parametrize("count", [0, 4])
def test_count_must_be_possible(operator, count):
    with pytest.raises(ValueError, match=f"cannot select {count} of 3"):
        operator(rows([0, 1, 2]), count)


def test_scores_must_be_a_matrix():
    with pytest.raises(ValueError, match=r"scores must be \(B, N\), got \(3,\)"):
        soft_top_k(torch.rand(3), 1, epsilon=0.1)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_softness_must_be_positive(value):
    scores = rows([0, 1])
    for operator in (
        partial(soft_top_k, epsilon=value),
        partial(lapsum_top_k, temperature=value),
        partial(sparse_top_k, temperature=value),
        partial(sinkhorn_top_k, epsilon=value, iterations=1),
    ):
        with pytest.raises(ValueError, match=f"must be positive and finite, got {value}"):
            operator(scores, 1)
    with pytest.raises(ValueError, match="must be positive"):
        sinkhorn_top_k(scores, 1, epsilon=0.1, iterations=0)


SCORES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10),
    elements=st.floats(-1e6, 1e6, width=32),
)


@EVERY_OPERATOR
@settings(deadline=None, max_examples=15)
@given(scores=SCORES, data=st.data())
def test_a_mask_is_in_range_ordered_and_each_images_own(operator, scores, data):
    scores = torch.tensor(scores)
    B, N = scores.shape
    count = data.draw(st.integers(1, N))
    mask = operator(scores, count)
    assert mask.min() >= 0
    assert mask.max() <= 1 + 1e-6
    np.testing.assert_allclose(mask.sum(1), [count] * B, atol=1e-6)
    inside = mask.gather(1, scores.argsort(1))
    assert (inside.diff(dim=1) >= -1e-9).all()
    for one, own in zip(scores, mask, strict=True):
        np.testing.assert_allclose(operator(one[None], count)[0], own, atol=1e-9)


@EVERY_OPERATOR
def test_a_mask_ignores_the_scale_of_scores(operator):
    scores = torch.rand(2, 30, dtype=torch.float64)
    np.testing.assert_allclose(operator(7 * scores - 100, 3), operator(scores, 3), atol=1e-9)


@EVERY_OPERATOR
def test_the_type_of_scores_is_kept(operator):
    scores = torch.rand(2, 30, dtype=torch.float64)
    mask = operator(scores.float(), 3)
    assert mask.dtype == torch.float32
    np.testing.assert_allclose(mask, operator(scores, 3), atol=1e-4)


@EVERY_SHAPE
def test_a_hundred_thousand_locations(distribution):
    torch.manual_seed(0)
    scores = torch.rand(1, 100_000, dtype=torch.float64)
    mask = threshold_top_k(scores, 9, distribution, 1e-5)
    assert mask.sum().item() == pytest.approx(9, abs=1e-7)


def test_normalized_scores_span_the_unit_interval():
    assert normalize(rows([3, 1, 2], [4, 4, 4])).tolist() == [[1, 0, 0.5], [0, 0, 0]]
