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
from mist_bench.baselines.soft_topk import (
    MaskedClassifier,
    MaskOperator,
    RegionNetworks,
    build_region_network,
)
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


def choose_operator(operator: Operator, temperature: float, samples: int) -> MaskOperator:
    """Return the operator of that name, which maps (B, N) scores and K to a (B, N) mask.

    Raises:
        ValueError: for another name, or a number that the operator would not read.
    """
    warm = {"lapsum": lapsum_top_k, "sparse": sparse_top_k, "subset": subset_top_k}
    cold = {"ats": attention_top_k, "random": random_top_k, "dense": uniform_mask}
    if operator not in {*warm, *cold, "perturbed"}:
        known = ", ".join([*warm, "perturbed", *cold])
        raise ValueError(f"operator must be one of {known}; got {operator!r}")
    if operator != "perturbed" and samples != 0:
        raise ValueError(f"operator {operator} takes no samples: give 0, not {samples}")
    if operator in cold and temperature != 0:
        raise ValueError(f"operator {operator} has no temperature: give 0, not {temperature}")
    if operator == "perturbed":
        return partial(perturbed_top_k, sigma=temperature, samples=samples)
    return partial(warm[operator], temperature=temperature) if operator in warm else cold[operator]


def build(
    task: TaskSpec,
    *,
    networks: RegionNetworks,
    detector_channels: int,
    detector_blocks: int,
    heatmap_stride: int,
    head_channels: int,
    operator: Operator,
    temperature: float,
    samples: int,
    entropy_weight: float,
    nms_kernel: int,
    mirror: bool,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> MaskedClassifier:
    """Return the mask method named ``operator`` for ``task``.

    Args:
        task: classification; K is the mask's sum and the number of detections.
        networks: compact for images, features for frozen features.
        detector_channels: channels of the trunk.
        detector_blocks: residual blocks of the trunk.
        heatmap_stride: pixels per cell, 2 or 4; 1 on features.
        head_channels: channels of the 3x3 convolution before the score and the classes.
        operator: lapsum, sparse, perturbed (Cordonnier et al.), subset (relaxed subset sampling),
            ats (attention sampling), random or dense (mean over all locations).
        temperature: softness. For scores from 0 to 1: lapsum's scale, sparse's width, perturbed's
            standard deviation; for scores as they are: subset's softmax. 0 for the others.
        samples: noise samples per image of perturbed; 0 for the others.
        entropy_weight: weight of the entropy of softmax(scores), which is maximized; 0 for none.
        nms_kernel: side of the non-maximum suppression's window at test, cells; 1 for none.
        mirror: whether training masks are made of scores in randomly reflected images.
        lr_detector: Adam's learning rate for the trunk and the score.
        lr_task: Adam's learning rate for the classes.
        betas: Adam's decay rates.

    Raises:
        ValueError: for another operator, or a number that it cannot take or would not read.
    """
    mask = choose_operator(operator, temperature, samples)
    network, optimizers = build_region_network(
        task,
        networks=networks,
        channels=detector_channels,
        blocks=detector_blocks,
        stride=heatmap_stride,
        head_channels=head_channels,
        lr_detector=lr_detector,
        lr_task=lr_task,
        betas=betas,
    )
    return METHODS.get(operator, MaskedClassifier)(
        network,
        mask,
        task=task,
        nms_kernel=nms_kernel,
        entropy_weight=entropy_weight,
        mirror=mirror,
        optimizers=optimizers,
    )
