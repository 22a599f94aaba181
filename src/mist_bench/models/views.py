"""What a detector learns from: reflections and shifts of the images of a batch.

Shapes: B images, K boxes, C channels, H W image.
"""

import torch
from torch import Tensor

from mist_bench.models.tensors import to_device


class Mirror:
    """Random reflections of a batch.

    Without them the detector can settle at a constant offset from the objects, to which the
    classifier then adapts; a reflected image turns that offset around. Not in the paper for MNIST
    (Sec. 5.2 flips natural images); the classifier always sees the image as it is.
    """

    def __init__(self, images: Tensor):
        self.x, self.y = to_device(torch.rand(2, len(images)), images.device) < 0.5  # (B,) each
        self.height, self.width = images.shape[-2:]

    def images(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W) images, each reflected in its own way."""
        images = torch.where(self.x[:, None, None, None], images.flip(-1), images)
        return torch.where(self.y[:, None, None, None], images.flip(-2), images)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Return (B, K, 4) boxes of the images as boxes of their reflections, and back."""
        x, y = boxes[..., 0], boxes[..., 1]
        x = torch.where(self.x[:, None], self.width - 1 - x, x)
        y = torch.where(self.y[:, None], self.height - 1 - y, y)
        return torch.stack([x, y, boxes[..., 2], boxes[..., 3]], dim=-1)


class Shift:
    """Random shifts of a batch by whole pixels; what enters repeats the edge. Not in the paper.

    Args:
        images: (B, C, H, W), for their number and device.
        longest: of a shift along an axis, px.
    """

    def __init__(self, images: Tensor, longest: int):
        drawn = torch.randint(-longest, longest + 1, (len(images), 2))
        self.xy = to_device(drawn, images.device)  # (B, 2)

    def images(self, images: Tensor) -> Tensor:
        """Return (B, C, H, W) images, each shifted in its own way."""
        B, _, H, W = images.shape
        x = torch.arange(W, device=images.device) - self.xy[:, :1]  # (B, W): what comes to x
        y = torch.arange(H, device=images.device) - self.xy[:, 1:]
        b = torch.arange(B, device=images.device)[:, None, None]
        rows, columns = y.clamp(0, H - 1)[:, :, None], x.clamp(0, W - 1)[:, None, :]
        return images.permute(0, 2, 3, 1)[b, rows, columns].permute(0, 3, 1, 2)

    def boxes(self, boxes: Tensor) -> Tensor:
        """Return (B, K, 4) boxes of the images as boxes of the shifted ones."""
        shift = self.xy[:, None].to(boxes)
        return torch.cat([boxes[..., :2] + shift, boxes[..., 2:]], dim=-1)


class View:
    """A batch reflected, where ``mirror``, and then shifted, where ``shift`` is not 0.

    Without a shift, a view undoes itself.

    Args:
        images: (B, C, H, W).
        mirror: whether images are reflected at random.
        shift: longest shift along an axis, px.
    """

    def __init__(self, images: Tensor, *, mirror: bool, shift: int = 0):
        self.parts: list[Mirror | Shift] = [Mirror(images)] if mirror else []
        self.parts += [Shift(images, shift)] if shift else []

    def images(self, images: Tensor) -> Tensor:
        """Return the view's (B, C, H, W) images of the batch's."""
        for part in self.parts:
            images = part.images(images)
        return images

    def boxes(self, boxes: Tensor) -> Tensor:
        """Return the view's (B, K, 4) boxes of the batch's."""
        for part in self.parts:
            boxes = part.boxes(boxes)
        return boxes
