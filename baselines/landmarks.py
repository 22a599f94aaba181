"""Zha18: an image as K landmarks with descriptors, found without supervision (Sec. 5.1, App. C.2).

Zhang et al., "Unsupervised discovery of object landmarks as structural representations", CVPR 2018:
a detector with one heatmap per landmark, which must be concentrated, apart from the others, and
equivariant under warps; a descriptor per landmark; a decoder from both. Without color jitter here.

Shapes: B images, K landmarks, C channels, H image side, h map side, D channels of features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mist_bench.baselines.parts.hourglass import Hourglass, Output
from mist_bench.baselines.parts.landmarks import (
    LandmarkDecoder,
    LinearPerLandmark,
    concentration,
    equivariance,
    moments,
    pool_features,
    separation,
)
from mist_bench.baselines.parts.warps import WarpStrength, random_warp
from mist_bench.models.optimizers import adam
from mist_bench.models.tensors import widened
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


@dataclass(frozen=True)
class Objective:
    """The weights of the losses; see ``build``."""

    concentration: float
    separation: float
    separation_width: float
    equivariance: float
    reconstruction: Sequence[float]


@dataclass(frozen=True)
class Phases:
    """When the weight of the reconstruction and the learning rate change.

    Attributes:
        steps: steps of the whole training.
        starts: fraction of it at which each phase after the first starts.
        lr_factors: factor on the learning rate in each phase.
    """

    steps: int
    starts: Sequence[float]
    lr_factors: Sequence[float]

    def at(self, step: int) -> int:
        """Return the phase of a step, both counted from 0."""
        return sum(step >= start * self.steps for start in self.starts)


class Landmarks(nn.Module):
    """Detector, descriptors and decoder, trained together; see ``build``."""

    supervision: ClassVar[Supervision] = "none"

    def __init__(
        self,
        detector: nn.Module,
        describe: nn.Module,
        to_descriptors: nn.Module,
        decoder: LandmarkDecoder,
        *,
        task: TaskSpec,
        padding: int,
        stride: int,
        objective: Objective,
        strength: WarpStrength,
        phases: Phases,
    ):
        super().__init__()
        self.detector, self.describe = detector, describe
        self.to_descriptors, self.decoder = to_descriptors, decoder
        self.to(memory_format=torch.channels_last)
        self.task, self.padding, self.stride = task, padding, stride
        self.extent = 1 + 2 * padding / task.image_size[-1]
        self.objective, self.strength, self.phases = objective, strength, phases
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.done = 0  # ``step`` on the host: to read it from a GPU, each step would wait
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def pad(self, images: Tensor) -> Tensor:
        """Return images with a frame of the mean of their own outermost pixels."""
        edges = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
        mean = torch.cat(edges, dim=-1).mean(-1)[..., None, None]
        return F.pad(images - mean, [self.padding] * 4) + mean

    def detect(self, padded: Tensor) -> Tensor:
        """Return the (B, K + 1, h, h) heatmaps of padded images, a softmax over channels."""
        return widened(self.detector(F.pixel_unshuffle(padded, self.stride))).softmax(1)

    def reconstruct(self, padded: Tensor, maps: Tensor, landmarks: Tensor) -> Tensor:
        """Return the (B, C, H, H) images that landmarks and descriptors stand for."""
        features = self.describe(F.pixel_unshuffle(padded, self.stride))
        return self.decoder(landmarks, self.to_descriptors(pool_features(features, maps)))

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the mean over images of every loss, without its weight."""
        padded = self.pad(images)
        warp = random_warp(padded, self.strength)
        maps = self.detect(torch.cat([padded, warp.images(padded)]))
        landmarks, std = moments(maps[:, :-1], self.extent)
        found, warped = landmarks.chunk(2)
        half = self.extent / 2
        returned = warp.points(warped / half) * half
        image = self.reconstruct(padded, maps[: len(images)], found)
        return {
            "reconstruction": 0.5 * (image - images).square().sum((1, 2, 3)).mean(),
            "concentration": concentration(std).sum(1).mean(),
            "separation": separation(landmarks, self.objective.separation_width).mean(),
            "equivariance": equivariance(found, returned).mean(),
        }

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step all networks on the weighted sum of the losses; return it and them."""
        phase = self.phases.at(self.done)
        losses = self.losses(batch.images)
        weights = {**vars(self.objective), "reconstruction": self.objective.reconstruction[phase]}
        loss = sum(weights[name] * value for name, value in losses.items())
        optimizer = self.optimizers["all"]
        optimizer.zero_grad()
        loss.backward()
        scheduled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= self.phases.lr_factors[phase]
        optimizer.step()
        for group, lr in zip(optimizer.param_groups, scheduled, strict=True):
            group["lr"] = lr
        self.step += 1
        self.done += 1
        return {name: value.detach() for name, value in {"loss": loss, **losses}.items()}

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Restore weights and, with them, how many steps were made."""
        found = super().load_state_dict(*arguments, **options)
        self.done = int(self.step)
        return found

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return a box at each landmark; the smaller a heatmap's area, the higher its score."""
        padded = self.pad(images)
        maps = self.detect(padded)
        landmarks, std = moments(maps[:, :-1], self.extent)
        centers = (landmarks + 0.5) * self.task.image_size[-1] - 0.5
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        parts = boxes, -concentration(std), self.reconstruct(padded, maps, landmarks)
        return [Prediction(b, s, reconstruction=r) for b, s, r in zip(*parts, strict=True)]


def build(
    task: TaskSpec,
    *,
    padding: int,
    stride: int,
    detector_levels: Sequence[Sequence[int]],
    detector_skips: int,
    feature_levels: Sequence[Sequence[int]],
    feature_channels: int,
    decoder_levels: Sequence[Sequence[int]],
    decoder_channels: int,
    skips: int,
    output: Output,
    descriptors: int,
    gaussian_std: float,
    gaussian_levels: int,
    concentration_weight: float,
    separation_weight: float,
    separation_width: float,
    equivariance_weight: float,
    reconstruction_weights: Sequence[float],
    lr_factors: Sequence[float],
    phase_starts: Sequence[float],
    schedule_steps: int,
    warp_points: int,
    warp_bending: float,
    warp_translation: float,
    warp_rotation: float,
    warp_scaling: float,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> Landmarks:
    """Return Zha18 for ``task``.

    Args:
        task: reconstruction of square images; K is the number of landmarks.
        padding: width of the frame around the images that detector and descriptors see, px.
        stride: pixels per cell of all maps; published: 1.
        detector_levels: channels of the detector's convolutions, level by level, finest first.
        detector_skips: convolutions in each of the detector's skips.
        feature_levels: channels of the convolutions of the network behind the descriptors.
        feature_channels: size of a landmark's features, in front of and behind its descriptor.
        decoder_levels: channels of the decoder's convolutions.
        decoder_channels: channels of the decoder's layer before the output's.
        skips: convolutions in each skip of the other two networks.
        output: normalized (published) where batch norm follows the last layer of detector and
            decoder, whose few weights then set how sharp maps and images can be; or linear.
        descriptors: size of a landmark's descriptor.
        gaussian_std: standard deviation of the decoder's narrowest Gaussians, sides of the image.
        gaussian_levels: how many Gaussians per landmark, each sqrt(2) wider than the one before.
        concentration_weight: weight of the sum over landmarks of 2 pi e variance.
        separation_weight: weight of the sum over pairs of landmarks of their nearness.
        separation_width: standard deviation of that nearness, sides of the image.
        equivariance_weight: weight of the squared distances under warps, half sides of the image.
        reconstruction_weights: weight of half the squared error of an image in each phase.
        lr_factors: factor on the learning rate in each phase.
        phase_starts: fraction of the training at which each phase after the first starts.
        schedule_steps: steps of the whole training, which null stands for; phases are fractions.
        warp_points: control points of the warps' thin-plate spline, a side.
        warp_bending: standard deviation of their displacement; 1 is half of the padded image.
        warp_translation: largest translation on each axis; 1 is half of the padded image.
        warp_rotation: standard deviation of the rotation, degrees.
        warp_scaling: standard deviation of the logarithm of the scale.
        lr: Adam's learning rate.
        betas: Adam's decay rates.
        weight_decay: factor of the squared weights' gradient that Adam is given.

    Raises:
        ValueError: for images that are not square or that a network cannot halve often enough, and
            for lists of phases that do not fit together.
    """
    (C, H, W), K = task.image_size, task.num_instances
    if H != W:
        raise ValueError(f"landmarks needs square images, got {H} x {W} px")
    if not len(reconstruction_weights) == len(lr_factors) == len(phase_starts) + 1:
        raise ValueError(
            "landmarks needs a reconstruction weight and a learning-rate factor for each phase, "
            f"one more than phase_starts has, got {len(reconstruction_weights)}, "
            f"{len(lr_factors)} and {len(phase_starts)}"
        )
    padded, deepest = H + 2 * padding, max(len(detector_levels), len(feature_levels))
    for side, levels in ((padded, deepest), (H, len(decoder_levels))):
        if side % (stride * 2 ** (levels - 1)):
            raise ValueError(
                f"{side} px cannot be divided by stride {stride} and then halved {levels - 1} "
                "times: change padding, stride or the number of levels"
            )
    pixels = C * stride**2
    detector = Hourglass(
        pixels,
        K + 1,
        levels=detector_levels,
        before_output=detector_levels[0][0],
        skip_layers=detector_skips,
        output=output,
    )
    describe = Hourglass(
        pixels,
        feature_channels,
        levels=feature_levels,
        before_output=feature_channels,
        skip_layers=skips,
        output="activated",
    )
    network = Hourglass(
        gaussian_levels * (K + 1 + feature_channels),
        pixels,
        levels=decoder_levels,
        before_output=decoder_channels,
        skip_layers=skips,
        output=output,
    )
    stds = [gaussian_std * math.sqrt(2) ** level for level in range(gaussian_levels)]
    expand = LinearPerLandmark(K + 1, descriptors, feature_channels)
    method = Landmarks(
        detector,
        describe,
        LinearPerLandmark(K + 1, feature_channels, descriptors),
        LandmarkDecoder(network, expand, stds, H // stride, stride),
        task=task,
        padding=padding,
        stride=stride,
        objective=Objective(
            concentration=concentration_weight,
            separation=separation_weight,
            separation_width=separation_width,
            equivariance=equivariance_weight,
            reconstruction=reconstruction_weights,
        ),
        strength=WarpStrength(
            warp_points, warp_bending, warp_translation, warp_rotation, warp_scaling
        ),
        phases=Phases(schedule_steps, phase_starts, lr_factors),
    )
    method.optimizers["all"] = adam(method.parameters(), lr, betas, weight_decay)
    return method
