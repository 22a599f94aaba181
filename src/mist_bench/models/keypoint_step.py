"""The step of {x_k} down the task loss (Eq. 6, Algorithm 1)."""

import math

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny  # a step of length 0 stays 0


class KeypointStep:
    """Gradient descent on keypoints: plain steps per image, each no longer than ``clip``.

    Args:
        lr: pixels per unit gradient of one image's loss. The official code's 1e4 acts on a batch
            mean of 32, which is 312.5 here.
        clip: longest step, px (not in the paper); ``None`` for no limit.
        steps: steps in a row.
        penalty: lambda of Eq. 6; the official code has none.
        decay: whether ``clip`` follows the schedule of the learning rates (not in the paper).
        sides: smallest and largest side of a box, px, where x_k = (x, y, s) (Sec. 4.1); ``None``
            for boxes that keep theirs.

    Raises:
        ValueError: if there is no ``clip`` to decay.
    """

    def __init__(
        self,
        lr: float,
        clip: float | None,
        steps: int,
        penalty: float,
        decay: bool = False,
        sides: tuple[float, float] | None = None,
    ):
        if decay and clip is None:
            raise ValueError("keypoint_decay needs a keypoint_clip, which it makes smaller")
        self.lr, self.steps, self.penalty, self.sides = lr, steps, penalty, sides
        self.decay = decay
        self.clip = math.inf if clip is None else clip

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
