"""The step of {x_k} down the task loss (Eq. 6, Algorithm 1)."""

import math

import torch
from torch import Tensor

from mist_bench.models.specs import KeypointSpec

TINY = torch.finfo(torch.float32).tiny  # a step of length 0 stays 0


class KeypointStep:
    """Gradient descent on keypoints: plain steps per image, each no longer than ``clip``.

    Args:
        spec: the step.
        sides: smallest and largest side of a box, px, where x_k = (x, y, s) (Sec. 4.1); ``None``
            for boxes that keep theirs.
    """

    def __init__(self, spec: KeypointSpec, sides: tuple[float, float] | None = None):
        self.lr, self.penalty, self.decay = spec.lr, spec.penalty, spec.decay
        self.order, self.steps, self.sides = spec.order, spec.steps, sides
        self.clip = math.inf if spec.clip is None else spec.clip

    def move(self, boxes: Tensor, start: Tensor, grad: Tensor, cooling: float = 1.0) -> Tensor:
        """Return boxes after one step down ``grad``. All are (B, K, 4).

        A step is no longer than ``cooling`` times ``clip``.

        The third coordinate is how far the edges lie from the center, px; a step of it is made in
        log-scale, so that a side stays positive.
        """
        centers, sides, moved = boxes[..., :2], boxes[..., 2:], boxes - start
        if self.sides is None:
            step = self.step(grad[..., :2], moved[..., :2], cooling)
            return torch.cat([centers - step, sides], dim=-1)
        # an edge that moves 1 px makes both sides 2 px longer
        grad = torch.cat([grad[..., :2], 2 * grad[..., 2:].sum(-1, keepdim=True)], dim=-1)
        moved = torch.cat([moved[..., :2], moved[..., 2:3] / 2], dim=-1)
        step = self.step(grad, moved, cooling)
        sides = sides * torch.exp(-2 * step[..., 2:] / sides)
        return torch.cat([centers - step[..., :2], sides.clamp(*self.sides)], dim=-1)

    def step(self, grad: Tensor, moved: Tensor, cooling: float) -> Tensor:
        """Return the step (..., D) down a gradient, at ``moved`` px from the start."""
        step = self.lr * (grad + 2 * self.penalty * moved)
        if math.isinf(self.clip):  # also of a step whose length float32 cannot hold
            return step
        length = step.norm(dim=-1, keepdim=True)
        return step * (cooling * self.clip / length.clamp(min=TINY)).clamp(max=1)
