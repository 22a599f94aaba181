"""Grid: the image cut into equal cells, each auto-encoded; no detector (Sec. 5.1, Table 1).

"A baseline that does not learn": K = n^2 cells tile the image, the same auto-encoder as MIST's
encodes each, and the cells are put back where they were. Cells are whole pixels wide, so that
nothing is interpolated where a cell has one sample per pixel; the last ones may reach beyond the
image. Samples of neighboring cells are as far apart as those inside one, so that what is pasted
covers every pixel exactly once. A box is a cell's center with the size of every method's boxes, so
that detection metrics mean the same for all.

Shapes: B images, K cells, C channels, H W image.
"""

import math

import torch
from torch import Tensor, nn

from mist_bench.models import optimizers
from mist_bench.models.autoencoder import BoxAutoencoder, build_autoencoder
from mist_bench.models.specs import AdamSpec, EncoderSpec
from mist_bench.types import Batch, Prediction, TaskSpec


def grid_boxes(image_size: tuple[int, int], cells: int, box_size: float) -> Tensor:
    """Return the boxes at the centers of ``cells`` x ``cells`` equal cells, row by row.

    Args:
        image_size: (H, W), px; the image spans [-0.5, W - 0.5], and the cells begin at its corner.
        cells: cells per side.
        box_size: side of every box, px.

    Returns:
        (K, 4) cxcywh, px.
    """
    H, W = image_size
    middle = torch.arange(cells) + 0.5
    y, x = (middle * cell_side(length, cells) - 0.5 for length in (H, W))
    y, x = torch.meshgrid(y, x, indexing="ij")
    side = torch.full_like(x, box_size)
    return torch.stack([x, y, side, side], dim=-1).view(-1, 4)


def cell_side(length: int, cells: int) -> int:
    """Return the side of a cell, px, where ``cells`` of them cover ``length`` px."""
    return math.ceil(length / cells)


class Grid(nn.Module):
    """An auto-encoder on a fixed grid of cells; see ``build``."""

    def __init__(
        self,
        head: BoxAutoencoder,
        *,
        task: TaskSpec,
        adam: AdamSpec,
    ):
        super().__init__()
        self.head, self.supervision = head, head.supervision
        cells = math.isqrt(task.num_instances)
        self.register_buffer("boxes", grid_boxes(task.image_size[1:], cells, task.box_size))
        self.optimizers = {"task": optimizers.adam(head.parameters(), adam)}

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step the auto-encoder on Eq. 8 and return the loss."""
        images = batch.images
        boxes = self.boxes.expand(len(images), -1, -1)
        loss = self.head.loss(images, boxes, self.head.targets(batch)).mean()
        self.optimizers["task"].zero_grad()
        loss.backward()
        self.optimizers["task"].step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return the cells and the image made of them; all cells have score 1."""
        boxes = self.boxes.expand(len(images), -1, -1)
        return self.head.predict(images, boxes, images.new_ones(boxes.shape[:2]))


def build(
    task: TaskSpec,
    *,
    autoencoder: EncoderSpec = EncoderSpec(patch_size=27),
    adam: AdamSpec = AdamSpec(lr=2e-3),
) -> Grid:
    """Return the grid baseline for ``task``; its auto-encoder is MIST's.

    Args:
        task: reconstruction; K is the number of cells and must be a square number.
        autoencoder: what encodes and decodes cells; as many samples as a cell has pixels copy it
            exactly.
        adam: the optimizer.

    Raises:
        ValueError: as ``check``.
    """
    check(task)
    channels, H, _ = task.image_size
    cells = math.isqrt(task.num_instances)
    samples = autoencoder.patch_size
    # the outer samples lie half a step inside
    extent = cell_side(H, cells) * (samples - 1) / samples
    return Grid(build_autoencoder(channels, autoencoder, extent=extent), task=task, adam=adam)


def check(task: TaskSpec) -> None:
    """Raise a ``ValueError`` for a task that a grid cannot do.

    One that is not reconstruction, K that is no square number, an image that is not square, or
    cells that would lie outside of it.
    """
    _, H, W = task.image_size
    cells = math.isqrt(task.num_instances)
    if task.kind != "reconstruction":
        raise ValueError(f"a grid does reconstruction only, not {task.kind}")
    if cells**2 != task.num_instances or H != W:
        raise ValueError(
            f"a grid needs a square number of cells in a square image, got {task.num_instances} "
            f"cells in {H}x{W} px"
        )
    if (cells - 1) * cell_side(H, cells) >= H:
        raise ValueError(f"{cells} cells of whole pixels a side do not fit {H} px")
