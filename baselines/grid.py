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

from mist_bench.models.autoencoder import BoxAutoencoder, build_autoencoder
from mist_bench.models.heatmap import Networks
from mist_bench.models.optimizers import adam
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
        lr: float,
        betas: tuple[float, float],
    ):
        super().__init__()
        self.head, self.supervision = head, head.supervision
        cells = math.isqrt(task.num_instances)
        self.register_buffer("boxes", grid_boxes(task.image_size[1:], cells, task.box_size))
        self.optimizers = {"task": adam(head.parameters(), lr, betas)}

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
    networks: Networks,
    autoencoder_width: int,
    latents: int,
    patch_size: int,
    signed: bool,
    lr: float,
    betas: tuple[float, float],
) -> Grid:
    """Return the grid baseline for ``task``; its auto-encoder is MIST's.

    Args:
        task: reconstruction; K is the number of cells and must be a square number.
        networks: compact (this suite's, for CPUs) or official (the paper's).
        autoencoder_width: width of the auto-encoder, as in MIST.
        latents: size of the code of a cell.
        patch_size: samples per side of a cell; as many as its pixels copy it exactly.
        signed: whether images show a signed signal around 0.5 (Gabor noise).
        lr: Adam's learning rate.
        betas: Adam's decay rates.

    Raises:
        ValueError: if K is no square number, the image is not square, or cells lie outside of it.
    """
    channels, H, W = task.image_size
    cells = math.isqrt(task.num_instances)
    if cells**2 != task.num_instances or H != W:
        raise ValueError(
            f"a grid needs a square number of cells in a square image, got {task.num_instances} "
            f"cells in {H}x{W} px"
        )
    if (cells - 1) * cell_side(H, cells) >= H:
        raise ValueError(f"{cells} cells of whole pixels a side do not fit {H} px")
    head = build_autoencoder(
        channels,
        networks=networks,
        width=autoencoder_width,
        latents=latents,
        patch_size=patch_size,
        # the outer samples lie half a step inside
        extent=cell_side(H, cells) * (patch_size - 1) / patch_size,
        signed=signed,
    )
    return Grid(head, task=task, lr=lr, betas=betas)
