"""One forward and one backward pass of a trained MIST, stage by stage, for Figure 1.

Shapes: B images, S scales, K keypoints, C channels, H W image, h w heatmap, p patch.
"""

from pathlib import Path

import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_bench.config.schema import RunSpec
from mist_bench.datasets.files import load_split
from mist_bench.mist import Mist
from mist_bench.models.autoencoder import BoxAutoencoder
from mist_bench.models.detector import Detector
from mist_bench.models.multiscale import MultiscaleDetector, scale_heatmaps, scale_weights
from mist_bench.models.selection import gaussian_heatmap, max_pool, point_heatmap
from mist_bench.run.batches import to_images
from mist_bench.run.method import choose_device, load_method, use_deterministic_torch
from mist_bench.run.prediction import save_arrays
from mist_bench.types import Batch


def trace_image(method: Mist, images: Tensor) -> dict[str, NDArray]:
    """Return what every stage of Algorithm 1 makes of one image; no weight changes.

    Args:
        method: trained MIST for reconstruction, set to eval.
        images: (1, C, H, W) in [0, 1].

    Returns:
        Forward: image (C, H, W), scale_space (S, h, w), heatmap (h, w) fused over scales, maxima
        (h, w) bool, boxes (K, 4) cxcywh in px, best first, patches and decoded (K, C, p, p) before
        and after the auto-encoder, reconstruction (C, H, W). Backward: moved (K, 4), the boxes
        after the keypoint step of Eq. 6, and target (S, h, w), G of these. All but maxima are
        float32.

    Raises:
        ValueError: for another method or task.
    """
    if not isinstance(method, Mist) or not isinstance(method.head, BoxAutoencoder):
        raise ValueError("only MIST for reconstruction can be traced; name such a run")
    detector, head = method.detector, method.head
    with torch.no_grad():
        heatmap, maps = detector(images)
        boxes, _ = detector.extract(heatmap, maps, method.task.num_instances)
        synthesis, patches, decoded = encode(head, images, boxes)
    with torch.random.fork_rng(devices=[]):  # a step draws the sides of its slopes
        torch.manual_seed(0)
        moved = method.update_keypoints(images, boxes, head.targets(Batch(images)))
    with torch.no_grad():
        scale_space, target = compared(detector, heatmap, maps, moved)
        stages = {
            "image": images,
            "scale_space": scale_space,
            "heatmap": heatmap,
            "maxima": heatmap >= max_pool(heatmap, single(detector).spec.nms_kernel),
            "boxes": boxes,
            "patches": patches,
            "decoded": decoded,
            "reconstruction": synthesis,
            "moved": moved,
            "target": target,
        }
    return {name: value[0].cpu().numpy() for name, value in stages.items()}


def encode(head: BoxAutoencoder, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the synthesis (B, C, H, W) and the (B, K, C, p, p) patches before and after T_tau."""
    seen: list[Tensor] = []
    hook = head.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        synthesis, decoded = head(head.to_signal(images), boxes)
    finally:
        hook.remove()
    return head.to_image(synthesis), seen[0].reshape(decoded.shape), decoded


def compared(
    detector: Detector | MultiscaleDetector, heatmap: Tensor, maps: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the two (B, S, h, w) sides of Eq. 7: the responses, and G of (B, K, 4) boxes."""
    one, size = single(detector), (heatmap.shape[-2], heatmap.shape[-1])
    keypoints, sigma = one.to_cells(boxes), one.spec.target_sigma
    if isinstance(detector, MultiscaleDetector):
        mass = scale_weights(boxes[..., 2] / one.box_size, detector.scales)
        return maps[:, :, 0], scale_heatmaps(keypoints, mass, size, sigma)
    target = gaussian_heatmap(keypoints, size, sigma) if sigma else point_heatmap(keypoints, size)
    return heatmap[:, None], target[:, None]


def single(detector: Detector | MultiscaleDetector) -> Detector:
    """Return the detector of one scale."""
    return detector.single if isinstance(detector, MultiscaleDetector) else detector


def trace(spec: RunSpec, data: Path, weights: Path, out: Path, device: str) -> None:
    """Write the stages of a trained run on the first image of the test split to ``out``.

    The other arguments, and the errors, are those of ``predict``; another method is one, too.
    """
    use_deterministic_torch(spec.training.threads)
    chosen = choose_device(device)
    method = load_method(spec, weights, chosen)
    images = to_images(load_split(data, "test")["images"][:1], chosen)
    save_arrays(out, trace_image(method.eval(), images))
