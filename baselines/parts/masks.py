"""Differentiable top-K: masks in place of a selection, smooth in the scores (Sec. 5.2, App. C.2).

Three operators are one family: A = F((x - tau) / T), where tau makes A sum to K. F is the logistic
function for optimal transport with an entropy (Xie20; Xie et al., NeurIPS 2020), the cumulative
Laplace distribution for LapSum (Struski et al., ICML 2025) and a ramp for the sparse soft top-K
(Sander et al., ICML 2023, p = 2). All take scores from 0 to 1, to which each image's are scaled.

Every operator takes scores (B, N), finite floats, and K from 1 to N, and returns a mask (B, N) of
their type, each image's summing to K, that is differentiable once and does not depend on the
others in the batch. It raises a ``ValueError`` for anything else. Inside, everything is float64: a
float32 threshold is too coarse for small T. Scores that are not finite and masks that are not what
they should be are refused on the CPU; on a GPU, where the host would have to wait for the answer,
the mask of such an image is not a number.

Shapes: B images, N locations, K selected.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mist_bench.models.tensors import widened

# halvings of a bracket of float64 numbers until it holds none between its ends
HALVINGS = 64
# most that a mask's sum may be off, as a share of K, and a location's mass in a transport plan
SUM_TOLERANCE, MASS_TOLERANCE = 1e-3, 0.05


@dataclass(frozen=True)
class Distribution:
    """F, its derivative and its inverse, each applied to tensors of any shape."""

    cdf: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]
    quantile: Callable[[Tensor], Tensor]


def _laplace_cdf(u: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-u.abs())
    return torch.where(u < 0, tail, 1 - tail)


def _laplace_quantile(p: Tensor) -> Tensor:
    return torch.where(p < 0.5, torch.log(2 * p), -torch.log(2 * (1 - p)))


LOGISTIC = Distribution(
    torch.sigmoid, lambda u: torch.sigmoid(u) * torch.sigmoid(-u), torch.special.logit
)
LAPLACE = Distribution(_laplace_cdf, lambda u: 0.5 * torch.exp(-u.abs()), _laplace_quantile)
RAMP = Distribution(lambda u: u.clamp(0, 1), lambda u: ((u > 0) & (u < 1)).to(u.dtype), lambda p: p)


def soft_top_k(scores: Tensor, num_instances: int, *, epsilon: float) -> Tensor:
    """Return Xie20's mask of the K highest scores, exactly: the limit of ``sinkhorn_top_k``.

    With two anchors the transport plan has a closed form up to one number, the logistic member of
    the family with T = epsilon / 2 (not in the papers).

    Args:
        scores: (B, N).
        num_instances: K.
        epsilon: weight of the plan's entropy, for costs from 0 to 1.
    """
    check_softness("epsilon", epsilon)
    return scaled_top_k(scores, num_instances, LOGISTIC, epsilon / 2)


def lapsum_top_k(scores: Tensor, num_instances: int, *, temperature: float) -> Tensor:
    """Return LapSum's mask of the K highest of (B, N) scores; T is the distribution's scale."""
    return scaled_top_k(scores, num_instances, LAPLACE, temperature)


def sparse_top_k(scores: Tensor, num_instances: int, *, temperature: float) -> Tensor:
    """Return the sparse mask, the one in [0, 1] nearest to (B, N) scores / T."""
    return scaled_top_k(scores, num_instances, RAMP, temperature)


def scaled_top_k(
    scores: Tensor, num_instances: int, distribution: Distribution, temperature: float
) -> Tensor:
    """Return ``threshold_top_k`` of scores that are scaled to span 0 to 1, as T is meant for."""
    check_scores(scores, num_instances)
    mask = threshold_top_k(normalize(scores), num_instances, distribution, temperature)
    return mask.to(scores.dtype)


def threshold_top_k(
    scores: Tensor, num_instances: int, distribution: Distribution, temperature: float
) -> Tensor:
    """Return F((scores - tau) / T) with each image's tau such that the mask sums to K.

    Args:
        scores: (B, N), used as they are; so far apart for T that float64 holds no tau, refused.
        num_instances: K; for N all of the mask is 1.
        distribution: F.
        temperature: T, in units of the scores.
    """
    check_scores(scores, num_instances)
    check_softness("the temperature", temperature)
    mask = _Threshold.apply(scores.double(), num_instances, distribution, temperature)
    return summing_to(num_instances, mask).to(scores.dtype)


class _Threshold(torch.autograd.Function):
    """``threshold_top_k`` in float64, with the gradient of the implicit function tau(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, F: Distribution, temperature: float) -> Tensor:
        ctx.temperature = temperature
        if count == x.shape[1]:
            ctx.save_for_backward(torch.zeros_like(x))
            return torch.ones_like(x)
        # at these ends no element is below, and none above, the mean K / N
        mean = F.quantile(torch.full_like(x[:, :1], count / x.shape[1]))
        low = x.amin(1, keepdim=True) - temperature * mean
        high = x.amax(1, keepdim=True) - temperature * mean
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            too_low = F.cdf((x - middle) / temperature).sum(1, keepdim=True) > count
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        u = (x - high) / temperature
        ctx.save_for_backward(F.density(u))
        return F.cdf(u)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (density,) = ctx.saved_tensors
        # where F' vanishes everywhere the mask is constant, and so is the gradient 0
        total = density.sum(1, keepdim=True).clamp(min=torch.finfo(density.dtype).tiny)
        mean = (density * grad).sum(1, keepdim=True) / total
        return density / ctx.temperature * (grad - mean), None, None, None


def sinkhorn_top_k(
    scores: Tensor, num_instances: int, *, epsilon: float, iterations: int, clip: float = 1e-8
) -> Tensor:
    """Return Xie20's mask of the K highest scores by Sinkhorn iterations (App. C.2).

    The mass K/N of the scores that is moved to anchor 1, the rest going to anchor 0, at a cost of
    the squared distance. Iterations end with the anchors' masses, so that the sum is always K; a
    location's mass is off by the less the more there are. More than a twentieth is refused: at
    N = 400 and epsilon 0.01 some 200 iterations are needed, at epsilon 0.05 some 50.

    Args:
        scores: (B, N).
        num_instances: K.
        epsilon: weight of the plan's entropy, for costs from 0 to 1.
        iterations: updates of both potentials; too few for the scores and epsilon are refused.
        clip: smallest divisor in the gradient; the paper says only that it is small.

    Returns:
        (B, N) from 0 to at most 1.05.
    """
    check_scores(scores, num_instances)
    check_softness("epsilon", epsilon)
    if iterations < 1:
        raise ValueError(f"the iterations must be positive, got {iterations}")
    x, N = normalize(scores).double(), scores.shape[1]
    cost = torch.stack([x**2, (1 - x) ** 2], dim=1)  # (B, 2, N)
    plan = _TransportPlan.apply(cost, num_instances / N, epsilon, iterations, clip)
    masses = N * plan.detach().sum(1)  # (B, N), 1 once converged
    message = f"Sinkhorn has not converged in {iterations} iterations: make more or raise epsilon"
    right = ((masses - 1).abs() <= MASS_TOLERANCE).all(1)
    return refused_unless(right, N * plan[:, 1], message).to(scores.dtype)


class _TransportPlan(torch.autograd.Function):
    """The plan of least cost and entropy between N equal masses and two anchors.

    The gradient is the one of the converged plan: it is orthogonal to the changes of the
    potentials f and g, which restore the masses.
    """

    @staticmethod
    def forward(
        ctx: Any, cost: Tensor, share: float, epsilon: float, iterations: int, clip: float
    ) -> Tensor:
        B, _, N = cost.shape
        log_mu = -torch.log(cost.new_full((), N))
        masses = [cost.new_full((1,), mass) for mass in (1 - share, share)]
        log_nu = torch.log(torch.stack(masses))  # (2, 1)
        kernel = -cost / epsilon
        g = cost.new_zeros(B, 2, 1)
        # with K = N nothing goes to anchor 0: its potential is -inf from the first update on
        for _ in range(iterations):
            f = log_mu - torch.logaddexp(*(kernel + g).split(1, dim=1))  # (B, 1, N)
            g = log_nu - torch.logsumexp(kernel + f, dim=2, keepdim=True)  # (B, 2, 1)
        plan = torch.exp(kernel + f + g)
        ctx.save_for_backward(plan)
        ctx.epsilon, ctx.clip = epsilon, clip
        return plan

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (plan,) = ctx.saved_tensors
        rows = plan.sum(1).clamp(min=ctx.clip)  # (B, N)
        # a and b make the rows and columns of plan * (grad - a - b) sum to 0; b of anchor 0 is 0
        both = plan[:, 0] * plan[:, 1] / rows
        kappa = both.sum(1, keepdim=True).clamp(min=ctx.clip)
        b = (both * (grad[:, 1] - grad[:, 0])).sum(1, keepdim=True) / kappa  # (B, 1)
        a = ((plan * grad).sum(1) - plan[:, 1] * b) / rows  # (B, N)
        offset = a[:, None] + torch.stack([torch.zeros_like(b), b], dim=1)
        return -plan / ctx.epsilon * (grad - offset), None, None, None, None


def normalize(scores: Tensor, smallest: float = 1e-5) -> Tensor:
    """Return each image's (B, N) scores scaled to span 0 to 1, in float32 at least; equal ones 0.

    Xie20's published code divides costs by their maximum over the batch instead, without gradient.

    Args:
        scores: (B, N).
        smallest: range below which scores are not spread further.
    """
    scores = widened(scores)
    low, high = scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    # finite scores can be further apart than any number: such are halved
    scale = 1 - 0.5 * (high - low).isinf().to(scores.dtype)  # (B, 1)
    low, high = low * scale, high * scale
    return (scores * scale - low) / (high - low).clamp(min=smallest)


def check_scores(scores: Tensor, num_instances: int) -> None:
    """Raise a ``ValueError`` unless K of the (B, N) ``scores`` can be chosen."""
    if scores.dim() != 2:
        raise ValueError(f"scores must be (B, N), got {tuple(scores.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating point, got {scores.dtype}")
    if not 1 <= num_instances <= scores.shape[1]:
        raise ValueError(f"cannot select {num_instances} of {scores.shape[1]} locations")
    if is_readable(scores) and not torch.isfinite(scores).all():
        raise ValueError("scores must be finite: training has diverged")


def check_softness(name: str, value: float) -> None:
    """Raise a ``ValueError`` that calls it ``name`` unless a softness is positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def summing_to(num_instances: int, mask: Tensor) -> Tensor:
    """Return the (B, N) mask of which each image's sums to K; one that does not is refused."""
    off = mask.detach().sum(1, dtype=torch.float64) - num_instances
    message = f"a mask does not sum to {num_instances}: scale scores down or raise the temperature"
    return refused_unless(off.abs() <= SUM_TOLERANCE * num_instances, mask, message)


def refused_unless(right: Tensor, mask: Tensor, message: str) -> Tensor:
    """Return the (B, N) mask of images that are (B,) ``right``; others as the module says."""
    if not is_readable(mask):
        return mask.masked_fill(~right[:, None], math.nan)
    if not right.all():
        raise ValueError(message)
    return mask


def is_readable(tensor: Tensor) -> bool:
    """Return whether the host can read ``tensor`` at once: a GPU would have to report to it."""
    return tensor.device.type == "cpu"
