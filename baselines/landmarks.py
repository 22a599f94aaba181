"""Zha18: an image as K landmarks with descriptors, found without supervision (Sec. 5.1, App. C.2).

Zhang et al., "Unsupervised discovery of object landmarks as structural representations", CVPR 2018:
a detector with one heatmap per landmark, which must be concentrated, apart from the others, and
equivariant under warps; a descriptor per landmark; a decoder from both. Without color jitter here.

Shapes: B images, K landmarks, C channels, H image side, h map side, D channels of features.
"""

import math
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mist_bench.baselines.parts import landmarks as formulas
from mist_bench.baselines.parts.hourglass import Hourglass, HourglassSpec
from mist_bench.baselines.parts.landmarks import DecoderSpec, LandmarkDecoder, LinearPerLandmark
from mist_bench.baselines.parts.warps import WarpSpec, random_warp
from mist_bench.models import optimizers
from mist_bench.models.specs import AdamSpec
from mist_bench.models.tensors import widened
from mist_bench.spec import Count, Fraction, Natural, NonNegative, Positive, Spec
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


class ObjectiveSpec(Spec):
    """The weights of the losses on landmarks."""

    concentration: NonNegative = Field(
        100, description="weight of the sum over landmarks of 2 pi e variance"
    )
    separation: NonNegative = Field(
        20, description="weight of the sum over pairs of landmarks of their nearness"
    )
    separation_width: Positive = Field(
        0.08, description="standard deviation of that nearness, sides of the image"
    )
    equivariance: NonNegative = Field(
        8333, description="weight of the squared distances under warps, half sides of the image"
    )


class PhaseSpec(Spec):
    """When the weight of the reconstruction and the learning rate change."""

    starts: tuple[Fraction, ...] = Field(
        (0.3333, 0.6667),
        description="fraction of the training at which each phase after the first starts",
    )
    reconstruction: tuple[NonNegative, ...] = Field(
        (1, 10, 100), description="weight of half the squared error of an image in each phase"
    )
    lr_factors: tuple[NonNegative, ...] = Field(
        (1, 1, 1),
        description="factor on the learning rate in each phase; 1 where training has a schedule",
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = len(self.reconstruction), len(self.lr_factors)
        if lengths != (len(self.starts) + 1,) * 2:
            raise ValueError(
                "each phase, one more than starts has, needs a reconstruction weight and a "
                f"learning-rate factor: got {len(self.starts)}, {lengths[0]} and {lengths[1]}"
            )
        return self

    def at(self, step: int, steps: int) -> int:
        """Return the phase of a step of a training of ``steps``, both counted from 0."""
        return sum(step >= start * steps for start in self.starts)


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
        objective: ObjectiveSpec,
        phases: PhaseSpec,
        steps: int,
        warps: WarpSpec,
        adam: AdamSpec,
    ):
        super().__init__()
        self.detector, self.describe = detector, describe
        self.to_descriptors, self.decoder = to_descriptors, decoder
        self.to(memory_format=torch.channels_last)
        self.task, self.padding, self.stride = task, padding, stride
        self.extent = 1 + 2 * padding / task.image_size[-1]
        self.objective, self.warps, self.phases, self.steps = objective, warps, phases, steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.done = 0  # ``step`` on the host: to read it from a GPU, each step would wait
        self.optimizers = {"all": optimizers.adam(self.parameters(), adam)}

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
        return self.decoder(landmarks, self.to_descriptors(formulas.pool_features(features, maps)))

    def losses(self, images: Tensor) -> dict[str, Tensor]:
        """Return the mean over images of every loss, without its weight."""
        padded = self.pad(images)
        warp = random_warp(padded, self.warps)
        maps = self.detect(torch.cat([padded, warp.images(padded)]))
        landmarks, std = formulas.moments(maps[:, :-1], self.extent)
        found, warped = landmarks.chunk(2)
        half = self.extent / 2
        returned = warp.points(warped / half) * half
        image = self.reconstruct(padded, maps[: len(images)], found)
        return {
            "reconstruction": 0.5 * (image - images).square().sum((1, 2, 3)).mean(),
            "concentration": formulas.concentration(std).sum(1).mean(),
            "separation": formulas.separation(landmarks, self.objective.separation_width).mean(),
            "equivariance": formulas.equivariance(found, returned).mean(),
        }

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step all networks on the weighted sum of the losses; return it and them."""
        phase = self.phases.at(self.done, self.steps)
        losses = self.losses(batch.images)
        weights = {**vars(self.objective), "reconstruction": self.phases.reconstruction[phase]}
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
        landmarks, std = formulas.moments(maps[:, :-1], self.extent)
        centers = (landmarks + 0.5) * self.task.image_size[-1] - 0.5
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        parts = boxes, -formulas.concentration(std), self.reconstruct(padded, maps, landmarks)
        return [Prediction(b, s, reconstruction=r) for b, s, r in zip(*parts, strict=True)]


def build(
    task: TaskSpec,
    *,
    padding: Natural = 8,
    stride: Count = 4,
    detector: HourglassSpec = HourglassSpec(),
    features: HourglassSpec = HourglassSpec(levels=((16, 24), (48,)), channels=24),
    decoder: DecoderSpec = DecoderSpec(levels=((48, 48), (64,)), channels=48),
    output: Literal["normalized", "linear"] = "linear",
    objective: ObjectiveSpec = ObjectiveSpec(),
    phases: PhaseSpec = PhaseSpec(),
    schedule_steps: Count | None = None,
    warps: WarpSpec = WarpSpec(),
    adam: AdamSpec = AdamSpec(lr=4e-3, betas=(0.9, 0.999), weight_decay=1e-6),
) -> Landmarks:
    """Return Zha18 for ``task``.

    Args:
        task: reconstruction of square images; K is the number of landmarks.
        padding: width of the frame around the images that detector and descriptors see, px.
        stride: pixels per cell of all maps; published: 1.
        detector: the network that draws a heatmap for each landmark.
        features: the network behind the descriptors; a landmark has as many features, in front of
            and behind its descriptor, as this has channels.
        decoder: the network that draws the image of landmarks and descriptors.
        output: normalized (published) where batch norm follows the last layer of detector and
            decoder, whose few weights then need many steps to make maps and images sharp; or
            linear.
        objective: the weights of the losses on landmarks.
        phases: when the weight of the reconstruction and the learning rate change.
        schedule_steps: steps of the whole training, of which phases are fractions; the workflow
            puts in those of its training for null.
        warps: the random warps under which landmarks must be equivariant.
        adam: the optimizer.
    """
    (C, H, _), K = task.image_size, task.num_instances
    pixels, size = C * stride**2, features.channels
    find = Hourglass(pixels, K + 1, detector, output)
    describe = Hourglass(pixels, size, features)
    draw = Hourglass(decoder.gaussians * (K + 1 + size), pixels, decoder, output)
    expand = LinearPerLandmark(K + 1, decoder.descriptors, size)
    stds = [decoder.gaussian_std * math.sqrt(2) ** level for level in range(decoder.gaussians)]
    return Landmarks(
        find,
        describe,
        LinearPerLandmark(K + 1, size, decoder.descriptors),
        LandmarkDecoder(draw, expand, stds, H // stride, stride),
        task=task,
        padding=padding,
        stride=stride,
        objective=objective,
        phases=phases,
        steps=schedule_steps,
        warps=warps,
        adam=adam,
    )


def check(
    task: TaskSpec,
    *,
    padding: int,
    stride: int,
    detector: HourglassSpec,
    features: HourglassSpec,
    decoder: DecoderSpec,
    schedule_steps: int | None,
) -> None:
    """Raise a ``ValueError`` for a task, or sizes of networks, that do not fit together.

    No reconstruction, images that are not square or that a network cannot halve often enough, or
    no ``schedule_steps``.
    """
    _, H, W = task.image_size
    if task.kind != "reconstruction" or H != W:
        raise ValueError(f"landmarks reconstructs square images, not {task.kind} of {H} x {W} px")
    if schedule_steps is None:
        raise ValueError("landmarks needs schedule_steps, the steps of the whole training")
    padded, deepest = H + 2 * padding, max(len(detector.levels), len(features.levels))
    for side, levels in ((padded, deepest), (H, len(decoder.levels))):
        if side % (stride * 2 ** (levels - 1)):
            raise ValueError(
                f"{side} px cannot be divided by stride {stride} and then halved {levels - 1} "
                "times: change padding, stride or the number of levels"
            )
