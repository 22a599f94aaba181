"""The detector over several scales: fusion, first moment and its inverse (Sec. 4.1, App. A, B).

One network serves all scales: "for each scale we first scale the image proportionally to the
inverse of the scale [...], execute the network H_eta on it, and finally scale the heatmap back"
(Appendix A). Scale s looks for objects s times as large as a box of the task.

Shapes: B images, S scales, K keypoints, C channels, H W image, h w heatmap. A map of all scales is
(B, S, 3, h, w): response, x- and y-offset in cells of the map that all scales share.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.func import functional_call

from mist_bench.models.detector import Detector, gather_cells
from mist_bench.models.heatmap import check_whole_cells
from mist_bench.models.sampler import hat_weights
from mist_bench.models.selection import (
    cells_around,
    gaussian_heatmap,
    local_spatial_softmax,
    point_heatmap,
    to_keypoints,
    top_k,
)
from mist_bench.models.tensors import widened
from mist_bench.spec import Positive

EPS = 1e-6  # Appendix A


class MultiscaleDetector(nn.Module):
    """A ``Detector`` run at several scales, with the same interface.

    Args:
        single: the detector of one scale, whose network and options all scales share.
        scales: box sides in units of the task's, rising.
    """

    def __init__(self, single: Detector, scales: Sequence[float]):
        super().__init__()
        self.single = single
        self.ratios = tuple(float(s) for s in scales)
        self.register_buffer("scales", torch.tensor(self.ratios), persistent=False)
        self.sides = (self.ratios[0] * single.box_size, self.ratios[-1] * single.box_size)
        # batch norm sees each scale by itself in training, so each has its statistics at test
        for name, buffer in single.network.named_buffers():
            self.register_buffer(own_name(name), torch.stack([buffer] * len(self.ratios)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return h' (B, h, w), without gradient, and the maps (B, S, 3, h, w) that it is made of.

        The first of them is h~_s: the response after the local spatial softmax, where there is one.

        Raises:
            ValueError: as ``check_whole_cells``.
        """
        check_whole_cells(images, self.single.network.stride)
        raw = [self.network_at(images, i) for i in range(len(self.ratios))]
        raw = widened(torch.stack(raw, dim=1))
        one = self.single
        response = raw[:, :, 0]
        if one.spec.softmax_kernel > 0:
            flat, kernel, strength = (
                response.flatten(0, 1),
                one.spec.softmax_kernel,
                one.spec.softmax_strength,
            )
            sharp = local_spatial_softmax(flat, kernel, strength, maximum=one.spec.softmax_maximum)
            response = sharp.view_as(response)
        B, S, h, w = response.shape
        if one.spec.offset_weight > 0:
            # a cell of the resized image's heatmap is s cells of the shared map wide
            offsets = raw[:, :, 1:3] * self.scales[:, None, None, None]
        else:
            offsets = response.new_zeros(B, S, 2, h, w)
        return fuse(response.detach()), torch.cat([response[:, :, None], offsets], dim=2)

    def network_at(self, images: Tensor, index: int) -> Tensor:
        """Return the network's (B, 1 or 3, h, w) map of images at one of the scales."""
        network, scale = self.single.network, self.ratios[index]
        statistics = {
            name: getattr(self, own_name(name))[index] for name, _ in network.named_buffers()
        }
        stride = network.stride
        H, W = images.shape[-2:]
        rows, columns = (shrink_weights(size, scale, stride, images) for size in (H, W))
        raw = functional_call(network, statistics, resize(images, rows, columns))
        rows, columns = (restore_weights(size, scale, stride, images) for size in (H, W))
        return resize(raw, rows, columns)

    @torch.no_grad()
    def extract(self, heatmap: Tensor, maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return E_K(H(I)): ``count`` boxes (B, K, 4) and their scores (B, K), best first.

        A box's side is s_k times the task's. Deviation: the paper's s_k = sum_s h'_s(x_k) s has
        weights that do not sum to 1; h~_s over its sum does, and gives E_K(G(x)) = x (Appendix B).
        """
        one = self.single
        index, scores = top_k(heatmap, count, one.spec.nms_kernel, zeros=one.suppressed_zero)
        B, S, _, _, w = maps.shape
        found = gather_cells(maps.flatten(1, 2), index).view(B, count, S, 3)
        weights = moment_weights(found[..., 0])  # (B, K, S)
        offsets = (weights[..., None] * found[..., 1:]).sum(-2)  # (B, K, 2)
        boxes = self.single.to_boxes(to_keypoints(index, w) + offsets)
        sides = boxes[..., 2:] * (weights * self.scales).sum(-1, keepdim=True)
        return torch.cat([boxes[..., :2], sides], dim=-1), scores

    def loss(self, heatmap: Tensor, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return ||G({x_k}) - H(I)||^2 per image (Eq. 7), and Eq. 11 for the offsets.

        G is compared with h~_s at every scale, and so are the offsets as far as a scale has mass.

        Args:
            heatmap: not used: G says what the maps of all scales should be.
            maps: (B, S, 3, h, w).
            boxes: (B, K, 4) cxcywh in pixels, without gradient.

        Returns:
            Two of (B,): the sum over scales, mean over cells; the offsets' loss with its weight.
        """
        one, size = self.single, (maps.shape[-2], maps.shape[-1])
        keypoints = one.to_cells(boxes)
        weights = scale_weights(boxes[..., 2] / one.box_size, self.scales.to(boxes))  # (B, K, S)
        target = scale_heatmaps(keypoints, weights, size, one.spec.target_sigma)
        loss = (maps[:, :, 0] - target).square().sum(1).flatten(1).mean(1)
        if one.spec.offset_weight == 0:
            return loss, torch.zeros_like(loss)
        index, near = cells_around(keypoints, size, one.spec.offset_kernel, one.spec.target_sigma)
        wanted = (keypoints[:, :, None] - to_keypoints(index, size[1]))[..., None, :]
        found = gather_cells(maps.flatten(1, 2), index.flatten(1))
        found = found.view(*index.shape, weights.shape[2], 3)[..., 1:]  # (B, K, cells, S, 2)
        huber = F.smooth_l1_loss(found, wanted.expand_as(found), reduction="none").mean(-1)
        huber = (near[..., None] * weights[:, :, None] * huber).sum((2, 3)).mean(1)
        return loss, one.spec.offset_weight * huber


def own_name(name: str) -> str:
    """Return the name under which all scales' values of a network's buffer are stored."""
    return "scaled_" + name.replace(".", "_")


def at_scales(detector: Detector, scales: Sequence[float]) -> Detector | MultiscaleDetector:
    """Return the detector over ``scales``: ``detector`` itself for the single scale 1."""
    return detector if list(scales) == [1.0] else MultiscaleDetector(detector, scales)


def _check_rising(scales: tuple[float, ...]) -> tuple[float, ...]:
    if any(low >= high for low, high in pairwise(scales)):
        raise ValueError("should rise")
    return scales


# box sides in units of the task's
Scales = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_check_rising)]


def fuse(responses: Tensor, eps: float = EPS) -> Tensor:
    """Return h' = sum_s h~_s (h~_s / sum_t (h~_t + eps)) (Appendix A).

    Not in the paper: responses below 0, which the local spatial softmax does not give but a network
    without it does, count as 0; where all are, h' is the highest of them, so that they still rank.

    Args:
        responses: (B, S, h, w).
        eps: added to every scale's response in the denominator.

    Returns:
        (B, h, w).
    """
    positive = responses.clamp(min=0)
    fused = positive.square().sum(1) / (positive + eps).sum(1)
    highest = responses.amax(1)
    return torch.where(highest > 0, fused, highest)


def moment_weights(responses: Tensor) -> Tensor:
    """Return h~_s / sum_t h~_t, the weights of the first moment over scale (Sec. 4.1).

    Args:
        responses: (..., S); below 0 counts as 0.

    Returns:
        (..., S), summing to 1; equal where no response is positive.
    """
    positive = responses.clamp(min=0)
    total = positive.sum(-1, keepdim=True)
    equal = torch.full_like(positive, 1 / responses.shape[-1])
    return torch.where(total > 0, positive / total, equal)


def scale_weights(scale: Tensor, scales: Tensor) -> Tensor:
    """Return the mass that G gives each scale: on the two nearest, with ``scale`` as their mean.

    The inverse of the first moment (Appendix B).

    Args:
        scale: (...,) s_k; outside the range of ``scales`` its ends take all.
        scales: (S,), rising.

    Returns:
        (..., S), at least 0 and summing to 1.
    """
    # how much of the way from each scale to the next lies below s_k
    passed = ((scale[..., None] - scales[:-1]) / scales.diff()).clamp(0, 1)  # (..., S - 1)
    return F.pad(passed, (1, 0), value=1.0) - F.pad(passed, (0, 1))


def scale_heatmaps(
    keypoints: Tensor, weights: Tensor, size: tuple[int, int], sigma: float
) -> Tensor:
    """Return G for all scales: each keypoint's point or Gaussian times its mass (Appendix B).

    Args:
        keypoints: (B, K, 2) xy in cells.
        weights: (B, K, S), each keypoint's mass at every scale.
        size: (h, w).
        sigma: standard deviation in cells, Gaussians are summed; 0 for single points, of which
            the highest stays where they share a cell.

    Returns:
        (B, S, h, w).
    """
    B, K, S = weights.shape
    alone = keypoints.reshape(B * K, 1, 2)
    if sigma > 0:
        each = gaussian_heatmap(alone, size, sigma).view(B, K, -1)
        return (weights.transpose(1, 2) @ each).view(B, S, *size)
    each = point_heatmap(alone, size).view(B, K, *size)
    layers = [(each * weights[:, :, s, None, None]).amax(1) for s in range(S)]
    return torch.stack(layers, dim=1)


def resize(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, C, h, w) maps resampled by (h', h) and (w', w) weights to (B, C, h', w').

    Two matrix products: deterministic on CUDA, where interpolation's gradient is not.
    """
    return rows @ maps @ columns.T


def shrunk(length: int, scale: float, stride: int) -> int:
    """Return the pixels of an axis divided by ``scale``, rounded up to whole cells."""
    # the tolerance keeps a product that is whole but for rounding from growing by a cell
    return stride * max(1, math.ceil(length / (scale * stride) - 1e-6))


def shrink_weights(length: int, scale: float, stride: int, like: Tensor) -> Tensor:
    """Return the bilinear weights that make one axis of an image smaller by ``scale``.

    The ratio is exact and both share their center; pixels past the edge repeat it.

    Args:
        length: pixels on the axis.
        scale: s.
        stride: pixels per cell of the heatmap to come.
        like: tensor whose dtype and device to take.

    Returns:
        (pixels of the resized axis, ``length``).
    """
    size = shrunk(length, scale, stride)
    pixels = torch.arange(size, dtype=like.dtype, device=like.device)
    places = (length - 1) / 2 + scale * (pixels - (size - 1) / 2)
    return hat_weights(places.clamp(0, length - 1), length)


def restore_weights(length: int, scale: float, stride: int, like: Tensor) -> Tensor:
    """Return the bilinear weights that bring one axis of a heatmap back to the shared cells.

    Args:
        length: pixels on the axis of the image.
        scale: s.
        stride: pixels per cell.
        like: tensor whose dtype and device to take.

    Returns:
        (h, cells of the resized image's heatmap).
    """
    size, middle = shrunk(length, scale, stride), (stride - 1) / 2
    cells = torch.arange(length // stride, dtype=like.dtype, device=like.device)
    pixels = stride * cells + middle  # of the image
    places = ((pixels - (length - 1) / 2) / scale + (size - 1) / 2 - middle) / stride
    count = size // stride
    return hat_weights(places.clamp(0, count - 1), count)
