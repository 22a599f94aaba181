"""The official training step, with what it spends and need not: a reference for speed.

It makes the updates of ``Mist.train_step`` in the official order, the way ubc-vision/mist does
(mist_train.py:105-223): a classifier pass only for logging, weight gradients in the keypoint
steps, autograd through four gathers per sample, square pooling windows, and no channels-last
memory. Same numbers, other cost.

Shapes: B images, K boxes, C channels, H W image, h w heatmap, p patch.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from mist_bench.mist import Mist
from mist_bench.models.heads import classification_loss
from mist_bench.models.sampler import sampling_axis
from mist_bench.models.selection import to_keypoints
from mist_bench.types import Batch


def gather_patches(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Return S(I, {x_k}), (B, K, C, p, p), by reading four pixels per sample.

    Args:
        images: (B, C, H, W).
        boxes: (B, K, 4) cxcywh, in pixels; differentiable.
        size: p, samples per side; the outer ones lie on the box edge.
    """
    B, C, H, W = images.shape
    K = boxes.shape[1]
    x, y, width, height = boxes.unbind(-1)
    xs = sampling_axis(x, width, size)[:, :, None, :].expand(B, K, size, size)
    ys = sampling_axis(y, height, size)[:, :, :, None].expand(B, K, size, size)
    flat = images.flatten(2)  # (B, C, H*W)
    left, top = xs.detach().floor(), ys.detach().floor()
    right_share, bottom_share = xs - left, ys - top  # (B, K, p, p)
    patches = images.new_zeros(())
    for dx, dy in itertools.product((0, 1), (0, 1)):
        column, row = left + dx, top + dy
        inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
        index = (row.clamp(0, H - 1) * W + column.clamp(0, W - 1)).long()
        pixels = flat.gather(2, index.view(B, 1, -1).expand(-1, C, -1))
        weight = (right_share if dx else 1 - right_share) * inside
        weight = weight * (bottom_share if dy else 1 - bottom_share)
        patches = patches + pixels.view(B, C, K, size, size) * weight[:, None]
    return patches.transpose(1, 2)


def square_softmax(logits: Tensor, kernel: int, strength: float) -> Tensor:
    """Return the local spatial softmax of (B, h, w) by one square window (code detector.py:69)."""
    raised = torch.exp(strength * (logits - logits.amax((-2, -1), keepdim=True)))
    total = F.avg_pool2d(raised[:, None], kernel, stride=1) * kernel**2
    total = F.pad(total, (kernel // 2,) * 4, mode="replicate")[:, 0]
    return raised / (total + 1e-6)


@torch.no_grad()
def square_top_k(heatmap: Tensor, count: int, kernel: int) -> Tensor:
    """Return the (B, K, 2) xy cells of the highest local maxima (code detector.py:37-67)."""
    pooled = F.max_pool2d(heatmap[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
    index = (heatmap * (heatmap >= pooled)).flatten(1).topk(count, dim=1).indices
    return to_keypoints(index, heatmap.shape[-1])


class OfficialStep:
    """The official step over MIST of the paper preset, put into torch's default memory format.

    Raises:
        ValueError: for a recipe that the official code does not have.
    """

    def __init__(self, method: Mist):
        spec, order = method.detector.spec, method.keypoints.order
        sharp = spec.softmax_kernel and spec.softmax_maximum == "global"
        more = spec.offset_weight or method.mirror or method.shift
        if not sharp or more or order != "x_tau_eta":
            raise ValueError(
                "the official step needs a local softmax over the global maximum, no offsets, no "
                "mirror, no shift and the order x_tau_eta, as in the preset 'paper'"
            )
        self.method = method.to(memory_format=torch.contiguous_format)

    def classify(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Return (B, K, C) probabilities of the patches under (B, K, 4) boxes."""
        classifier = self.method.head
        patches = gather_patches(images, boxes, classifier.patch_size) * classifier.window
        return classifier.network(patches.flatten(0, 1)).softmax(-1).view(*boxes.shape[:2], -1)

    def __call__(self, batch: Batch) -> float:
        """Make one step and return the task loss."""
        method, images = self.method, batch.images
        detector, spec, optimizers = method.detector, method.detector.spec, method.optimizers
        labels = method.head.targets(batch)
        response = detector.network(images)[:, 0]
        heatmap = square_softmax(response, spec.softmax_kernel, spec.softmax_strength)
        found = square_top_k(heatmap, method.task.num_instances, spec.nms_kernel)
        start = moved = detector.to_boxes(found)
        # a pass for logging only, with its graph
        logged = classification_loss(self.classify(images, start), labels).mean().item()

        for _ in range(method.keypoints.steps):
            boxes = moved.clone().requires_grad_()
            loss = classification_loss(self.classify(images, boxes), labels).mean()
            loss.backward()  # also to the weights, whose gradients nobody reads
            moved = method.keypoints.move(moved, start, boxes.grad * len(images))

        task_loss = classification_loss(self.classify(images, moved), labels)  # (B,)
        optimizers["task"].zero_grad()
        task_loss.mean().backward()
        optimizers["task"].step()

        offsets = response.new_zeros(len(images), 2, *response.shape[-2:])
        heatmap_loss, _ = detector.loss(heatmap, offsets, moved)
        weight = torch.exp(-method.sample_weight * task_loss.detach())
        optimizers["detector"].zero_grad()
        (weight * heatmap_loss).mean().backward()
        optimizers["detector"].step()
        return logged
