"""The detector around a heatmap network: H_eta, E_K and the loss against G (Sec. 3 and 4.1).

Shapes: B images, K keypoints, C channels, H W image, h w heatmap. Keypoints are in heatmap cells,
boxes in pixels; only this module converts between them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mist_bench.models.heatmap import build_heatmap
from mist_bench.models.selection import (
    cells_around,
    gaussian_heatmap,
    local_spatial_softmax,
    point_heatmap,
    to_keypoints,
    top_k,
)
from mist_bench.models.specs import DetectorSpec
from mist_bench.models.tensors import widened


class Detector(nn.Module):
    """H_eta with its sharpening, E_K and G.

    Args:
        network: maps images to (B, 3, h, w): response, x- and y-offset in cells (Appendix A); the
            response alone, (B, 1, h, w), is enough without offsets.
        box_size: side of every box, px.
        spec: the sharpening, selection and targets.
        suppressed_zero: suppressed cells have the score 0 (official code; see ``top_k``).
    """

    sides: tuple[float, float] | None = None  # the range of box sides, px; all are box_size

    def __init__(
        self,
        network: nn.Module,
        box_size: float,
        spec: DetectorSpec,
        *,
        suppressed_zero: bool = False,
    ):
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.box_size, self.spec, self.suppressed_zero = box_size, spec, suppressed_zero

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return H(I): the (B, h, w) heatmap and the (B, 2, h, w) offsets in cells."""
        raw = widened(self.network(images))
        response = raw[:, 0]
        B, h, w = response.shape
        offsets = raw[:, 1:3] if self.spec.offset_weight > 0 else response.new_zeros(B, 2, h, w)
        offsets = F.relu(offsets) if self.spec.corner else offsets
        if self.spec.softmax_kernel > 0:
            response = local_spatial_softmax(
                response,
                self.spec.softmax_kernel,
                self.spec.softmax_strength,
                maximum=self.spec.softmax_maximum,
            )
        return response, offsets

    @torch.no_grad()
    def extract(self, heatmap: Tensor, offsets: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return E_K(H(I)): ``count`` boxes (B, K, 4) and their scores (B, K), best first."""
        index, scores = top_k(heatmap, count, self.spec.nms_kernel, zeros=self.suppressed_zero)
        keypoints = to_keypoints(index, heatmap.shape[-1]) + gather_cells(offsets, index)
        return self.to_boxes(keypoints), scores

    def loss(
        self, heatmap: Tensor, offsets: Tensor, boxes: Tensor, heights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ||G({x_k}) - H(I)||^2 per image (Eq. 7), and Eq. 11 for the offsets.

        Args:
            heatmap: (B, h, w).
            offsets: (B, 2, h, w) in cells.
            boxes: (B, K, 4) cxcywh in pixels, without gradient.
            heights: (B, K) of the Gaussians in G; 1 if not given.

        Returns:
            Two of (B,): the mean over cells, and the offsets' loss with its weight.
        """
        size = (heatmap.shape[-2], heatmap.shape[-1])
        places = self.places(boxes)
        if self.spec.target_sigma > 0:
            target = gaussian_heatmap(places, size, self.spec.target_sigma, heights)
        else:
            target = point_heatmap(places, size)
        loss = (heatmap - target).square().flatten(1).mean(1)
        return loss, self.offset_loss(offsets, boxes)

    def offset_loss(self, offsets: Tensor, boxes: Tensor) -> Tensor:
        """Return the (B,) loss of (B, 2, h, w) offsets at (B, K, 4) boxes (Eq. 11), weighed.

        Deviation: with an offset_kernel above 1, cells around a keypoint's learn from it too.
        """
        if self.spec.offset_weight == 0:
            return offsets.new_zeros(len(offsets))
        size = (offsets.shape[-2], offsets.shape[-1])
        index, weights = cells_around(
            self.places(boxes), size, self.spec.offset_kernel, self.spec.target_sigma
        )
        wanted = self.to_cells(boxes)[:, :, None] - to_keypoints(index, size[1])
        found = gather_cells(offsets, index.flatten(1)).view_as(wanted)  # (B, K, cells, 2)
        huber = F.smooth_l1_loss(found, wanted, reduction="none").mean(-1)
        return self.spec.offset_weight * (weights * huber).sum(-1).mean(1)

    def places(self, boxes: Tensor) -> Tensor:
        """Return (B, K, 2) xy whose nearest cell is the one that (B, K, 4) boxes belong to."""
        keypoints = self.to_cells(boxes)
        return keypoints - 0.5 if self.spec.corner else keypoints  # to round down

    def to_boxes(self, keypoints: Tensor) -> Tensor:
        """Return (B, K, 2) xy cells as (B, K, 4) cxcywh boxes in pixels."""
        s = self.network.stride
        centers = keypoints * s + (s - 1) / 2
        return torch.cat([centers, torch.full_like(centers, self.box_size)], dim=-1)

    def to_cells(self, boxes: Tensor) -> Tensor:
        """Return the centers of (B, K, 4) boxes in pixels as (B, K, 2) xy cells."""
        s = self.network.stride
        return (boxes[..., :2] - (s - 1) / 2) / s


def gather_cells(maps: Tensor, index: Tensor) -> Tensor:
    """Return the (B, K, C) values of (B, C, h, w) maps at flat cells (B, K)."""
    wanted = index[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, wanted).transpose(1, 2)


def build_detector(
    in_channels: int, box_size: float, spec: DetectorSpec, *, suppressed_zero: bool = False
) -> Detector:
    """Return the detector that MIST and the supervised bound share; see ``Detector``."""
    network = build_heatmap(in_channels, spec, outputs=3 if spec.offset_weight > 0 else 1)
    return Detector(network, box_size, spec, suppressed_zero=suppressed_zero)
