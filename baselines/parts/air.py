"""Networks of Attend-Infer-Repeat: how many objects, where they are and what they look like.

The recurrent network sees the image alone, as in the implementation that the paper used (Suppl.
Sec. C.2; aakhundov/tf-attend-infer-repeat), or also what earlier steps have not yet explained, as
in "difference AIR" of Eslami et al. 2016.

Shapes: B images, K steps, N windows in all, C channels, H W image, p window side, D code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from mist_bench.spec import Count, Positive, Spec

State = tuple[Tensor, Tensor] | None
DARK = -2.0  # initial bias of the decoder's output, so that windows start dark (pyro's AIR)


class RecurrentSpec(Spec):
    """The network that decides on each object."""

    networks: Literal["compact", "official"] = Field(
        "compact",
        description="official, where the LSTM sees the pixels, or compact, where it sees features "
        "of two convolutions at half the resolution",
    )
    difference: bool = Field(
        True,
        description="whether the LSTM also sees what earlier steps left of the image, and z_what "
        "is inferred from that (difference AIR of Eslami et al. 2016); else both see the image "
        "alone, as in the implementation that the paper used",
    )
    units: Count = Field(256, description="units of the LSTM, and of the compact features")
    hidden: Count = Field(
        64, description="units of the hidden layers from the LSTM to z_pres and z_where"
    )


class VaeSpec(Spec):
    """The variational auto-encoder of windows."""

    window_size: Count = Field(24, description="samples per side of a window")
    widths: tuple[Count, ...] = Field(
        (256,), description="units of the encoder's hidden layers; the decoder's are their reverse"
    )
    latents: Count = Field(50, description="size of z_what")


class PriorSpec(Spec):
    """What is believed of an object before the image is seen."""

    scale: tuple[float, Positive] = Field(
        (-1, 0.2236),
        description="mean and standard deviation of the logit of a window's side, as a fraction of "
        "the image's",
    )
    shift: tuple[float, Positive] = Field(
        (0, 1),
        description="mean and standard deviation of a window's place; tanh of it is -1 and 1 at "
        "the image's edges",
    )
    odds: tuple[Positive, Positive] = Field(
        (1e4, 1e-9),
        description="odds of one more object, before the first step and after their decay",
    )
    tenfold: Positive = Field(160, description="steps in which these odds fall to a tenth")

    @model_validator(mode="after")
    def _check_odds(self) -> Self:
        start, end = self.odds
        if end > start:
            raise ValueError(f"odds must not grow, got {start:g} and then {end:g}")
        return self


@dataclass(frozen=True)
class Posterior:
    """What the recurrent network believes about the next object of B images.

    Attributes:
        presence: (B,) logits of z_pres, given that the step is reached.
        scale: (B, 1) normal over the logit of a window's side, as a fraction of the image's.
        shift: (B, 2) normal over xy before tanh, which gives -1 and 1 at the image's edges.
    """

    presence: Tensor
    scale: Normal
    shift: Normal


class RecurrentEncoder(nn.Module):
    """q(z_pres, z_where | image, objects so far): an LSTM that sees the image at every step.

    Args:
        image_size: (C, H, W).
        spec: what it sees, and its size.
        prior: what it believes before training: from wider windows, large regions are learned
            first.
    """

    def __init__(self, image_size: tuple[int, int, int], spec: RecurrentSpec, prior: PriorSpec):
        super().__init__()
        self.difference, units = spec.difference, spec.units
        channels, *side = image_size
        seen = (channels * (1 + spec.difference), *side)
        if spec.networks == "compact":
            self.features, width = convolutional_features(seen, units), units
        else:
            self.features, width = nn.Flatten(), math.prod(seen)
        self.cell = nn.LSTMCell(width, units)
        outputs = {"presence": 1, "scale": 1, "scale_log_var": 1, "shift": 2, "shift_log_var": 2}
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    *(nn.Linear(units, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, size))
                )
                for name, size in outputs.items()
            }
        )
        nn.init.constant_(self.heads["presence"][-1].bias, math.log(prior.odds[0]))
        for name, (mean, std) in (("scale", prior.scale), ("shift", prior.shift)):
            nn.init.constant_(self.heads[name][-1].bias, mean)
            nn.init.constant_(self.heads[f"{name}_log_var"][-1].bias, 2 * math.log(std))

    def forward(self, images: Tensor, unexplained: Tensor, state: State) -> tuple[Posterior, State]:
        """Return the posterior of the next object, and the state after it.

        Args:
            images: (B, C, H, W).
            unexplained: (B, C, H, W), the images less the objects so far; unused without
                ``difference``.
            state: of the LSTM, two times (B, ``units``); None before the first step.
        """
        seen = torch.cat([images, unexplained], dim=1) if self.difference else images
        state = self.cell(self.features(seen), state)
        out = {name: head(state[0]) for name, head in self.heads.items()}
        posterior = Posterior(
            out["presence"][:, 0],
            normal(out["scale"], out["scale_log_var"]),
            normal(out["shift"], out["shift_log_var"]),
        )
        return posterior, state


class Halved(nn.Module):
    """Means of 2x2 pixels, as ``AvgPool2d(2)``, which takes five times as long on CPUs."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, C, H // 2, W // 2) of (B, C, H, W); a last odd row or column is left out."""
        H, W = images.shape[-2] // 2 * 2, images.shape[-1] // 2 * 2
        rows = images[..., :H:2, :W] + images[..., 1:H:2, :W]
        return (rows[..., ::2] + rows[..., 1::2]) / 4


def convolutional_features(image_size: tuple[int, int, int], units: int) -> nn.Sequential:
    """Return the compact network from (B, C, H, W) images to (B, ``units``) features.

    Without batch norm, whose statistics would be those of no single step.
    """
    C, H, W = image_size
    cells = (H // 16) * (W // 16)
    return nn.Sequential(
        Halved(),
        *(nn.Conv2d(C, 32, 8, 4, 2), nn.ReLU()),
        *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * cells, units), nn.ReLU()),
    )


class WindowVae(nn.Module):
    """q(z_what | window) and p(window | z_what) for windows of (N, C, p, p)."""

    def __init__(self, in_channels: int, spec: VaeSpec):
        super().__init__()
        size, latents = spec.window_size, spec.latents
        pixels = in_channels * size**2
        self.encoder = nn.Sequential(nn.Flatten(), *dense([pixels, *spec.widths, 2 * latents]))
        self.decoder = nn.Sequential(
            *dense([latents, *reversed(spec.widths), pixels]),
            *(nn.Unflatten(1, (in_channels, size, size)), nn.Sigmoid()),
        )
        nn.init.constant_(self.decoder[-3].bias, DARK)

    def encode(self, windows: Tensor) -> Normal:
        """Return q(z_what | window), (N, D), of (N, C, p, p) windows."""
        return normal(*self.encoder(windows).chunk(2, dim=-1))

    def decode(self, codes: Tensor) -> Tensor:
        """Return (N, C, p, p) windows in [0, 1] of (N, D) codes."""
        return self.decoder(codes)


def dense(widths: Sequence[int]) -> list[nn.Module]:
    """Return linear layers between ``widths``, with a softplus between two of them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Softplus()]
    return layers[:-1]


def normal(mean: Tensor, log_var: Tensor) -> Normal:
    """Return independent normals; not validated, so that divergence is reported as such."""
    return Normal(mean, (log_var / 2).exp(), validate_args=False)


def sample_concrete(logits: Tensor, temperature: float) -> Tensor:
    """Return a sample of the binary Concrete distribution, before its sigmoid, with gradient.

    torch's own sample clips ``logits`` where its density does not: the density could be driven to
    where no sample falls, and a divergence below 0.

    Args:
        logits: any shape.
        temperature: > 0.
    """
    heat = torch.full_like(logits, temperature)
    noise = LogitRelaxedBernoulli(heat, logits=torch.zeros_like(logits), validate_args=False)
    return logits / temperature + noise.sample()


def concrete_kl(logits: Tensor, sample: Tensor, prior: Tensor, temperature: float) -> Tensor:
    """Return an estimate of the divergence of two binary Concrete distributions, in nats.

    The difference of their log densities, log t + a - 2 log(1 + exp(a)) with a = l - t y for logits
    l and temperature t, at one sample y.

    Args:
        logits: of the posterior, any shape.
        sample: of the posterior, before its sigmoid.
        prior: logits of the prior.
        temperature: of both.
    """
    one, two = logits - temperature * sample, prior - temperature * sample
    return one - 2 * F.softplus(one) - two + 2 * F.softplus(two)


class PriorSchedule(nn.Module):
    """Log odds of z_pres under the prior, from "always one more" to "an object must pay".

    Annealed by exponential decay, so that explaining is learned before explaining briefly.
    """

    def __init__(self, prior: PriorSpec):
        super().__init__()
        self.start, self.end = (math.log(odds) for odds in prior.odds)
        self.rate = math.log(10) / prior.tenfold
        # in the weights: a run that is resumed goes on where it was
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """Return the log odds of the present step, (), and count it."""
        log_odds = (self.start - self.rate * self.steps).clamp(min=self.end)
        self.steps += 1
        return log_odds
