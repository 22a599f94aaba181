"""Other differentiable top-K operators, and two bounds, in the place of Xie20's (not in the paper).

Network, loss (Eq. 12), training and test are those of ``soft_topk``, with the settings of
``soft_topk_plain``; only what turns scores into a mask differs. ``ats`` and ``random`` put all of a
mask's mass on K sampled locations. The bounds do not train the score: ``random`` selects at test by
a ranking of locations that was drawn once, ``dense`` averages over all locations and selects by the
certainty of the classes.

Shapes: B images, N = h w locations, K selected, C classes, H W image, h w map.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mist_bench.baselines.parts.masks import lapsum_top_k, sparse_top_k
from mist_bench.baselines.parts.sampled_masks import (
    attention_top_k,
    perturbed_top_k,
    random_top_k,
    subset_top_k,
    uniform_mask,
)
from mist_bench.baselines.soft_topk import MaskedClassifier, MaskOperator, RegionSpec
from mist_bench.baselines.soft_topk import check as check_task
from mist_bench.models.specs import AdamPairSpec
from mist_bench.spec import Natural, NonNegative, OddCount
from mist_bench.types import TaskSpec

Operator = Literal["lapsum", "sparse", "perturbed", "subset", "ats", "random", "dense"]


class RandomTopK(MaskedClassifier):
    """Selects at test by a ranking of locations drawn once, the same for every image."""

    def __init__(self, *args: object, **kwargs: object):
        super().__init__(*args, **kwargs)
        _, H, W = self.task.image_size
        stride = self.network.stride
        self.register_buffer("order", torch.rand(H // stride, W // stride))

    def ranking(self, scores: Tensor, probs: Tensor) -> Tensor:
        """Return the drawn ranking, (B, h, w)."""
        return self.order.expand_as(scores)


class MeanPool(MaskedClassifier):
    """Selects at test where a class is most certain."""

    def ranking(self, scores: Tensor, probs: Tensor) -> Tensor:
        """Return each location's highest class probability, (B, h, w)."""
        return probs.amax(1)


METHODS = {"random": RandomTopK, "dense": MeanPool}
WARM = {"lapsum": lapsum_top_k, "sparse": sparse_top_k, "subset": subset_top_k}
COLD = {"ats": attention_top_k, "random": random_top_k, "dense": uniform_mask}


def choose_operator(operator: Operator, temperature: float, samples: int) -> MaskOperator:
    """Return the operator of that name, which maps (B, N) scores and K to a (B, N) mask."""
    if operator == "perturbed":
        return partial(perturbed_top_k, sigma=temperature, samples=samples)
    return COLD[operator] if operator in COLD else partial(WARM[operator], temperature=temperature)


def build(
    task: TaskSpec,
    *,
    network: RegionSpec = RegionSpec(head_channels=400),
    operator: Operator = "lapsum",
    temperature: NonNegative = 0.025,
    samples: Natural = 0,
    entropy_weight: NonNegative = 0,
    nms_kernel: OddCount = 3,
    mirror: bool = False,
    adam: AdamPairSpec = AdamPairSpec(),
) -> MaskedClassifier:
    """Return the mask method named ``operator`` for ``task``.

    Args:
        task: classification; K is the mask's sum and the number of detections.
        network: what scores and classifies every location.
        operator: lapsum, sparse, perturbed (Cordonnier et al.), subset (relaxed subset sampling),
            ats (attention sampling), random or dense (mean over all locations).
        temperature: softness. For scores from 0 to 1: lapsum's scale, sparse's width, perturbed's
            standard deviation; for scores as they are: subset's softmax. 0 for the others.
        samples: noise samples per image of perturbed; 0 for the others.
        entropy_weight: weight of the entropy of softmax(scores), which is maximized; 0 for none.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        mirror: whether training masks are made of scores in randomly reflected images.
        adam: the optimizers of the trunk with the score, and of the classes.
    """
    return METHODS.get(operator, MaskedClassifier)(
        choose_operator(operator, temperature, samples),
        task,
        network=network,
        nms_kernel=nms_kernel,
        mirror=mirror,
        adam=adam,
        entropy_weight=entropy_weight,
    )


def check(task: TaskSpec, *, operator: Operator, temperature: float, samples: int) -> None:
    """Raise a ``ValueError`` without labels, or for a number that the operator would not read."""
    check_task(task)
    for name, value, used in (
        ("temperature", temperature, operator not in ("ats", "random", "dense")),
        ("samples", samples, operator == "perturbed"),
    ):
        if used != (value > 0):
            wanted = f"needs {name} above 0" if used else f"has no {name}: give 0"
            raise ValueError(f"operator {operator} {wanted}, not {value:g}")
