"""Channel-wise for reconstruction: K soft-argmax locations, one shared auto-encoder (Sec. 5.1)."""

from mist_bench.baselines.channelwise import ChannelWise
from mist_bench.models.autoencoder import build_autoencoder
from mist_bench.models.heatmap import Networks, build_heatmap
from mist_bench.models.optimizers import adam_pair
from mist_bench.types import TaskSpec


def build(
    task: TaskSpec,
    *,
    networks: Networks,
    detector_channels: int,
    detector_blocks: int,
    heatmap_stride: int,
    temperature: float,
    autoencoder_width: int,
    latents: int,
    patch_size: int,
    extent: float,
    signed: bool,
    mirror: bool,
    lr_detector: float,
    lr_task: float,
    betas: tuple[float, float],
) -> ChannelWise:
    """Return the channel-wise baseline that reconstructs; its networks are MIST's.

    Args:
        task: reconstruction; K is the number of heatmap channels.
        networks: compact (this suite's, for CPUs) or official (the paper's).
        detector_channels: channels of the heatmap network before its last layer.
        detector_blocks: residual blocks of the heatmap network.
        heatmap_stride: pixels per heatmap cell; compact: 2 or 4, official: 1.
        temperature: divisor of the heatmap before the softmax over space.
        autoencoder_width: width of the auto-encoder, as in MIST.
        latents: size of the code of a patch.
        patch_size: samples per side of a patch; official: 32.
        extent: side of the encoded square around a location, px.
        signed: whether images show a signed signal around 0.5 (Gabor noise).
        mirror: whether the heatmap network sees randomly reflected images in training.
        lr_detector: Adam's learning rate for the heatmap network.
        lr_task: Adam's learning rate for the auto-encoder.
        betas: Adam's decay rates, both networks.
    """
    channels = task.image_size[0]
    network = build_heatmap(
        channels,
        networks=networks,
        channels=detector_channels,
        blocks=detector_blocks,
        stride=heatmap_stride,
        outputs=task.num_instances,
    )
    autoencoder = build_autoencoder(
        channels,
        networks=networks,
        width=autoencoder_width,
        latents=latents,
        patch_size=patch_size,
        extent=extent,
        signed=signed,
    )
    optimizers = adam_pair(network, autoencoder, lr_detector, lr_task, betas)
    return ChannelWise(
        network,
        autoencoder,
        task=task,
        temperature=temperature,
        mirror=mirror,
        optimizers=optimizers,
    )
