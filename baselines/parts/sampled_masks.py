"""Top-K by sampling: masks whose gradient comes from random draws (not in the paper).

What operators take, return and refuse is in ``masks``. Draws come from torch's global generator.

Shapes: B images, N locations, K selected, n noise samples.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mist_bench.baselines.parts.masks import check_scores, check_softness, normalize, summing_to
from mist_bench.models.tensors import widened


def perturbed_top_k(scores: Tensor, num_instances: int, *, sigma: float, samples: int) -> Tensor:
    """Return how often each location is among the K highest scores under normal noise.

    Cordonnier et al., CVPR 2021, whose sorted indicators add up to this mask. Their code transposes
    the Jacobian; here the gradient is the score function's, 1 / (n sigma) sum_j <g, Y_j> Z_j.

    Args:
        scores: (B, N); each image's are scaled to span 0 to 1.
        num_instances: K.
        sigma: standard deviation of the noise, for scores from 0 to 1.
        samples: n, draws per image; the memory is n * N floats per image.
    """
    check_scores(scores, num_instances)
    x = normalize(scores)
    numbers = torch.finfo(x.dtype)
    if not numbers.tiny <= sigma <= numbers.max / 16:  # no draw is 16 standard deviations away
        raise ValueError(f"sigma must be positive and in the range of {x.dtype}, got {sigma}")
    if samples < 1:
        raise ValueError(f"the samples must be positive, got {samples}")
    return _Perturbed.apply(x, num_instances, sigma, samples).to(scores.dtype)


class _Perturbed(torch.autograd.Function):
    """``perturbed_top_k``; keeps the indices of the selected instead of their one-hots."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, sigma: float, samples: int) -> Tensor:
        B, N = x.shape
        noise = torch.randn(B, samples, N, dtype=x.dtype, device=x.device)
        index = torch.add(x[:, None], noise, alpha=sigma).topk(count, sorted=False).indices
        ctx.save_for_backward(noise, index)  # (B, n, N), (B, n, K)
        ctx.sigma = sigma
        chosen = index.flatten(1)
        hits = torch.zeros_like(x).scatter_add_(1, chosen, torch.ones_like(chosen, dtype=x.dtype))
        return hits / samples + 0 * x  # not a number where scores are none

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        noise, index = ctx.saved_tensors
        B, n, K = index.shape
        value = grad.gather(1, index.flatten(1)).view(B, n, K).sum(2, keepdim=True)  # (B, n, 1)
        return (value.transpose(1, 2) @ noise)[:, 0] / (n * ctx.sigma), None, None, None


def subset_top_k(scores: Tensor, num_instances: int, *, temperature: float) -> Tensor:
    """Return a relaxed random subset: K softmaxes in a row, each avoiding what is taken.

    Xie and Ermon, IJCAI 2019. The subset is drawn with probabilities that softmax(scores) gives.
    What is taken for sure falls by 87 (708 in float64) only: a score further above the rest is
    taken again.

    Args:
        scores: (B, N), used as they are; their quotient by the temperature must be finite.
        num_instances: K.
        temperature: of each softmax.

    Returns:
        (B, N) from 0 to K; of two that nearly tie, one can exceed 1.
    """
    check_scores(scores, num_instances)
    check_softness("the temperature", temperature)
    logits = gumbel(widened(scores))
    mask = torch.zeros_like(logits)
    for _ in range(num_instances):
        probs = torch.softmax(logits / temperature, dim=1)
        mask = mask + probs
        # a location that is taken for sure would get -inf, and a gradient that is not a number
        logits = logits + torch.log((1 - probs).clamp(min=torch.finfo(probs.dtype).tiny))
    return summing_to(num_instances, mask).to(scores.dtype)


def attention_top_k(scores: Tensor, num_instances: int) -> Tensor:
    """Return weights of K sampled locations, K times an unbiased estimate of softmax(scores).

    Attention sampling, Katharopoulos and Fleuret, ICML 2019: K locations are drawn one after the
    other without replacement, and the i-th gives the estimate sum_{j<i} a_j f_j +
    (1 - sum_{j<i} a_j) f_i of the attended mean of features f. The mean of these K estimates is
    sum_j m_j f_j / K. Its gradient by the scores is unbiased, too, and so is that of whatever is
    linear in the mask. Of a loss that is not, such as Eq. 12, it is biased: a mask and its gradient
    come from the same draws, whose product is not on average the product of their means.

    Args:
        scores: (B, N), logits of the attention a; too far apart for a difference, refused.
        num_instances: K.

    Returns:
        (B, N) from 0 to K; 0 where not sampled.
    """
    check_scores(scores, num_instances)
    x, K = widened(scores), num_instances
    index = gumbel(x.detach()).topk(K, dim=1).indices  # (B, K), in the order of the draws
    log_attention = F.log_softmax(x, dim=1).gather(1, index)
    attention = log_attention.exp()
    # exclusive running sum, as a product: torch's has no deterministic version on GPUs
    before = attention.detach() @ attention.new_ones(K, K).triu(1)
    # the last draw's probability is a_i / left, and stays fixed in the gradient
    left = (1 - before).clamp(min=0) * torch.exp(log_attention - log_attention.detach())
    later = torch.arange(K - 1, -1, -1, device=scores.device)
    mask = torch.zeros_like(x).scatter(1, index, left + later * attention)
    return summing_to(K, mask).to(scores.dtype)


def random_top_k(scores: Tensor, num_instances: int) -> Tensor:
    """Return a (B, N) mask of 1 at K random locations of each image, whatever the (B, N) scores."""
    check_scores(scores, num_instances)
    index = torch.rand_like(widened(scores)).topk(num_instances, dim=1).indices
    return torch.zeros_like(scores).scatter(1, index, 1.0)


def uniform_mask(scores: Tensor, num_instances: int) -> Tensor:
    """Return the (B, N) mask K / N everywhere, whatever the (B, N) scores."""
    check_scores(scores, num_instances)
    return torch.full_like(scores, num_instances / scores.shape[1])


def gumbel(scores: Tensor) -> Tensor:
    """Return (B, N) scores plus Gumbel noise: their order is a draw without replacement."""
    # an exponential draw may be 0 in float32
    draws = torch.empty_like(scores).exponential_().clamp(min=torch.finfo(scores.dtype).tiny)
    return scores - draws.log()
