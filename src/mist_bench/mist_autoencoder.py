"""MIST for reconstruction: an image as the sum of its K auto-encoded patches (Sec. 4.2, Eq. 8)."""

from collections.abc import Sequence
from functools import partial

from mist_bench.mist import Mist, Order
from mist_bench.models.autoencoder import build_autoencoder
from mist_bench.models.detector import build_detector
from mist_bench.models.heatmap import Networks
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.multiscale import at_scales
from mist_bench.models.optimizers import adam_pair
from mist_bench.models.selection import Maximum
from mist_bench.types import TaskSpec


def build(
    task: TaskSpec,
    *,
    networks: Networks,
    detector_channels: int,
    detector_blocks: int,
    heatmap_stride: int,
    softmax_kernel: int,
    softmax_strength: float,
    softmax_maximum: Maximum,
    nms_kernel: int,
    target_sigma: float,
    offset_weight: float,
    offset_kernel: int,
    scales: Sequence[float],
    autoencoder_width: int,
    latents: int,
    patch_size: int,
    extent: float,
    whole_pixels: bool,
    signed: bool,
    keypoint_lr: float,
    keypoint_clip: float | None,
    keypoint_decay: bool,
    keypoint_steps: int,
    keypoint_penalty: float,
    order: Order,
    sample_weight: float,
    full_contribution: float | None,
    mirror: bool,
    shift: int,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> Mist:
    """Return MIST that reconstructs; arguments that ``mist`` has too are described there.

    Args:
        task: reconstruction; K is the number of patches.
        networks: compact or official.
        detector_channels: channels of the heatmap network.
        detector_blocks: residual blocks of the heatmap network.
        heatmap_stride: pixels per heatmap cell.
        softmax_kernel: side of the local spatial softmax's window, cells; 0 for none.
        softmax_strength: factor on the response before the local spatial softmax.
        softmax_maximum: what that softmax subtracts: the global or the local maximum.
        nms_kernel: side of the non-maximum suppression's window, cells.
        target_sigma: standard deviation of G's Gaussians, cells; 0 for single points.
        offset_weight: weight of the offsets' loss (Eq. 11); 0 for no offsets.
        offset_kernel: side of the square of cells around a keypoint that learn the offset to it,
            weighed by a Gaussian of target_sigma at the keypoint; 1 for its own cell alone.
        scales: box sides that the heatmap network looks for, in units of the task's, rising; the
            encoded square grows with the box; [1.0] for one scale.
        autoencoder_width: units of the auto-encoder's hidden layers; official: channels of its
            first level.
        latents: size of the code of a patch.
        patch_size: samples per side of a patch; official: 32.
        extent: side of the encoded square around a keypoint, px.
        whole_pixels: whether squares are cut and pasted at the nearest pixels, without
            interpolation; needs one scale and an extent of patch_size - 1.
        signed: whether images show a signed signal around 0.5 (Gabor noise).
        keypoint_lr: pixels per unit gradient of an image's loss.
        keypoint_clip: longest keypoint step, px; null for no limit.
        keypoint_decay: whether keypoint_clip follows the schedule of the learning rates.
        keypoint_steps: keypoint steps per batch; 1 where order is joint.
        keypoint_penalty: lambda of Eq. 6.
        order: x_tau_eta, tau_x_eta (Algorithm 1) or joint.
        sample_weight: a in the weight exp(-a * task loss) of an image's heatmap loss; 0 for none.
        full_contribution: share of a decoded patch's energy by which it must lower the error that
            patches with higher scores leave, for its keypoint to count fully in G; what lowers it
            less counts in proportion (not in the paper); null where all count fully (the paper).
        mirror: whether the detector learns from randomly reflected images.
        shift: longest random shift, px, of the view of an image in which the detector learns what
            was found in the image itself; 0 to learn in the view in which keypoints are found.
        lr_detector: Adam's learning rate for eta.
        lr_task: Adam's learning rate for tau.
        betas: Adam's decay rates, both networks.

    Raises:
        ValueError: for contradictory arguments, as in ``mist``, or contributions without
            Gaussians in G or with several scales.
    """
    if full_contribution is not None and not (
        full_contribution > 0 and target_sigma > 0 and len(scales) == 1
    ):
        raise ValueError(
            "full_contribution must be > 0 and needs target_sigma > 0 and one scale, or be null: "
            f"got {full_contribution:g}, {target_sigma:g} and {len(scales)}"
        )
    channels = task.image_size[0]
    detector = build_detector(
        channels,
        task.box_size,
        networks=networks,
        channels=detector_channels,
        blocks=detector_blocks,
        stride=heatmap_stride,
        softmax_kernel=softmax_kernel,
        softmax_strength=softmax_strength,
        softmax_maximum=softmax_maximum,
        nms_kernel=nms_kernel,
        target_sigma=target_sigma,
        offset_weight=offset_weight,
        offset_kernel=offset_kernel,
    )
    detector = at_scales(detector, scales)
    autoencoder = build_autoencoder(
        channels,
        networks=networks,
        width=autoencoder_width,
        latents=latents,
        patch_size=patch_size,
        extent=extent,
        box_size=task.box_size if detector.sides else None,
        whole_pixels=whole_pixels,
        signed=signed,
    )
    return Mist(
        detector,
        autoencoder,
        task=task,
        keypoints=KeypointStep(
            keypoint_lr,
            keypoint_clip,
            keypoint_steps,
            keypoint_penalty,
            keypoint_decay,
            detector.sides,
        ),
        order=order,
        sample_weight=sample_weight,
        mirror=mirror,
        shift=shift,
        optimizers=adam_pair(detector, autoencoder, lr_detector, lr_task, betas),
        marks=None if full_contribution is None else partial(autoencoder.marks, full_contribution),
    )
