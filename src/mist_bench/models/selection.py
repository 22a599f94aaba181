"""E_K: the top-K local maxima of a heatmap (Sec. 4.1), and G, its inverse (Appendix B).

Shapes: B images, K keypoints, h w heatmap. Keypoints are xy in heatmap cells: cell j has its
center at j.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mist_bench.models.specs import Maximum


def local_spatial_softmax(
    logits: Tensor, kernel: int, strength: float, eps: float = 1e-6, maximum: Maximum = "global"
) -> Tensor:
    """Return logits sharpened by a softmax over a window around each location (Appendix A).

    The official code subtracts the maximum of the whole map, so that a peak far below the highest
    one fades (``maximum="global"``); LF-Net subtracts the window's (``"local"``). The sum over a
    window that leaves the map is the one of the nearest window inside.

    Args:
        logits: (B, h, w).
        kernel: side of the window in cells, odd.
        strength: factor on the logits.
        eps: added to the denominator.
        maximum: ``global`` or ``local``.

    Returns:
        (B, h, w) in [0, 1].

    Raises:
        ValueError: for an even kernel, one larger than the map, or another ``maximum``.
    """
    if kernel % 2 == 0 or kernel > min(logits.shape[-2:]):
        size = tuple(logits.shape[-2:])
        raise ValueError(f"the softmax's window must be odd and fit the {size} map, got {kernel}")
    pad = kernel // 2
    if maximum == "global":
        top = logits.amax((-2, -1), keepdim=True)  # with its gradient, as in the official code
    elif maximum == "local":
        top = max_pool(logits, kernel).detach()
    else:
        raise ValueError(f"maximum must be 'global' or 'local', got {maximum!r}")
    raised = torch.exp(strength * (logits - top))
    # two passes of a running sum: a single square window is the slowest operation of a step
    total = F.avg_pool2d(raised[:, None], (kernel, 1), stride=1)
    total = F.avg_pool2d(total, (1, kernel), stride=1) * kernel**2
    total = F.pad(total, (pad, pad, pad, pad), mode="replicate")[:, 0]
    return raised / (total + eps)


def max_pool(heatmap: Tensor, kernel: int) -> Tensor:
    """Return the maximum over a ``kernel`` x ``kernel`` window around each cell of (B, h, w)."""
    pad = kernel // 2
    rows = F.max_pool2d(heatmap[:, None], (kernel, 1), stride=1, padding=(pad, 0))
    return F.max_pool2d(rows, (1, kernel), stride=1, padding=(0, pad))[:, 0]


def top_k(
    heatmap: Tensor, num_instances: int, kernel: int, *, zeros: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the K highest local maxima of each heatmap (Sec. 4.1, E_K).

    A cell is a local maximum if none in its window is higher; where fewer than K exist, the rest
    are other cells with the lowest finite score.

    Args:
        heatmap: (B, h, w).
        num_instances: K; at most h * w.
        kernel: side of the window of the non-maximum suppression in cells, odd.
        zeros: suppressed cells have the score 0, which outranks negative maxima (official code
            models/detector.py:62; deviation B9).

    Returns:
        (B, K) int64 flat indices and (B, K) scores, in descending order.

    Raises:
        ValueError: if K exceeds the cells, the kernel is even, or a score is not a number; on a
            GPU, which would have to report to the host, that is left for the loss to show.
    """
    h, w = heatmap.shape[-2:]
    if num_instances > h * w:
        raise ValueError(f"cannot select {num_instances} of {h * w} cells")
    if kernel % 2 == 0:
        raise ValueError(f"the suppression's window must be odd, got {kernel}")
    low = 0.0 if zeros else -torch.inf
    scores = heatmap.masked_fill(heatmap < max_pool(heatmap, kernel), low).flatten(1)
    scores, index = scores.topk(num_instances, dim=1)
    if scores.device.type == "cpu" and torch.isnan(scores).any():
        raise ValueError("the heatmap holds values that are not numbers: training has diverged")
    return index, scores.clamp(min=torch.finfo(scores.dtype).min)


def to_keypoints(index: Tensor, width: int) -> Tensor:
    """Return flat cell indices (...) as float xy cells (..., 2)."""
    return torch.stack([index % width, index // width], dim=-1).float()


def nearest_cells(keypoints: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the flat index of the cell nearest to each keypoint, clamped into the map.

    Args:
        keypoints: (B, K, 2) xy in cells.
        size: (h, w).

    Returns:
        (B, K) int64; halves round up, as in the official code.
    """
    h, w = size
    x = torch.floor(keypoints[..., 0] + 0.5).long().clamp(0, w - 1)
    y = torch.floor(keypoints[..., 1] + 0.5).long().clamp(0, h - 1)
    return y * w + x


def cells_around(
    keypoints: Tensor, size: tuple[int, int], kernel: int, sigma: float
) -> tuple[Tensor, Tensor]:
    """Return the cells around each keypoint's, and how much each counts; not in the paper.

    Args:
        keypoints: (B, K, 2) xy in cells.
        size: (h, w).
        kernel: side of the square of cells, odd; 1 for the nearest cell alone.
        sigma: standard deviation in cells of the Gaussian at the keypoint that a cell counts by;
            without effect where kernel is 1.

    Returns:
        (B, K, kernel^2) int64 flat indices, and weights that sum to 1 over them; 0 off the map.
    """
    h, w = size
    index = nearest_cells(keypoints, size)[..., None]  # (B, K, 1)
    if kernel == 1:
        return index, torch.ones_like(keypoints[..., :1])
    steps = torch.arange(kernel, dtype=keypoints.dtype, device=keypoints.device) - kernel // 2
    around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).flatten(0, 1)
    cells = to_keypoints(index, w) + around  # (B, K, kernel^2, 2)
    x, y = cells.unbind(-1)
    outside = (x < 0) | (x >= w) | (y < 0) | (y >= h)
    distance = (keypoints[:, :, None] - cells).square().sum(-1)
    weights = (-distance / (2 * sigma**2)).masked_fill(outside, -torch.inf).softmax(-1)
    return (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).long(), weights


def point_heatmap(keypoints: Tensor, size: tuple[int, int]) -> Tensor:
    """Return G: 1 at the cell nearest to each keypoint, 0 elsewhere (Appendix B).

    Args:
        keypoints: (B, K, 2) xy in cells.
        size: (h, w).

    Returns:
        (B, h, w); keypoints that share a cell leave a single 1.
    """
    h, w = size
    flat = keypoints.new_zeros(keypoints.shape[0], h * w)
    return flat.scatter_(1, nearest_cells(keypoints, size), 1.0).view(-1, h, w)


def gaussian_heatmap(
    keypoints: Tensor, size: tuple[int, int], sigma: float, heights: Tensor | None = None
) -> Tensor:
    """Return G: a Gaussian at each keypoint's cell, summed (Appendix B).

    Args:
        keypoints: (B, K, 2) xy in cells.
        size: (h, w).
        sigma: standard deviation in cells.
        heights: (B, K) peaks; 1 if not given.

    Returns:
        (B, h, w).
    """
    h, w = size
    cells = to_keypoints(nearest_cells(keypoints, size), w)  # (B, K, 2)
    x = torch.arange(w, dtype=keypoints.dtype, device=keypoints.device)
    y = torch.arange(h, dtype=keypoints.dtype, device=keypoints.device)
    columns = torch.exp(-((x - cells[..., :1]) ** 2) / (2 * sigma**2))  # (B, K, w)
    rows = torch.exp(-((y - cells[..., 1:]) ** 2) / (2 * sigma**2))  # (B, K, h)
    if heights is not None:
        rows = rows * heights[..., None]
    return rows.transpose(1, 2) @ columns
