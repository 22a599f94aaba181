"""Esl16: Attend-Infer-Repeat, a recurrent variational auto-encoder of scenes (Suppl. Sec. C.2).

An LSTM goes over the image and decides at each step whether there is one more object (z_pres),
where (z_where) and, by a variational auto-encoder of that window, what it shows (z_what). The
image is explained as the sum of the decoded windows (Eslami et al. 2016). Without labels and boxes.

As in the implementation that the paper used, z_pres is relaxed to a binary Concrete variable, so
that all gradients are pathwise. Deviations from it, each a row of deviations.csv: a Gaussian
likelihood, because images are gray and their sum need not stay in [0, 1], instead of a Bernoulli
one; a running product of z_pres, Eslami's "present only if all before are", instead of a
threshold; no noise in the decoder. With ``difference``, a step explains what the steps before have
left of the image, as in Eslami's "difference AIR".

Shapes: B images, K steps, C channels, H W image, p window side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from mist_bench.baselines.parts.air import (
    Posterior,
    PriorSchedule,
    PriorSpec,
    RecurrentEncoder,
    RecurrentSpec,
    VaeSpec,
    WindowVae,
    concrete_kl,
    sample_concrete,
)
from mist_bench.models import optimizers
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.models.specs import AdamSpec
from mist_bench.spec import Positive
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


@dataclass(frozen=True)
class Scene:
    """What K steps found in B images.

    Attributes:
        logits: (B, K) of z_pres, given that the step is reached.
        samples: (B, K), z_pres before its sigmoid.
        presence: (B, K) in [0, 1], the running product of z_pres.
        windows: (B, K, 4) cxcywh, px.
        patches: (B, K, C, p, p) in [0, 1].
        object_kl: (B, K), divergence of z_where and z_what from their priors, in nats.
        synthesis: (B, C, H, W), the sum of the patches as far as they are present.
    """

    logits: Tensor
    samples: Tensor
    presence: Tensor
    windows: Tensor
    patches: Tensor
    object_kl: Tensor
    synthesis: Tensor


class Air(nn.Module):
    """Attend-Infer-Repeat with K steps; arguments as ``build``'s."""

    supervision: ClassVar[Supervision] = "none"

    def __init__(
        self,
        task: TaskSpec,
        *,
        recurrent: RecurrentSpec,
        vae: VaeSpec,
        prior: PriorSpec,
        temperature: float,
        pixel_std: float,
        clip_norm: float,
        adam: AdamSpec,
    ):
        super().__init__()
        self.task, self.window_size = task, vae.window_size
        self.recurrent = RecurrentEncoder(task.image_size, recurrent, prior)
        self.vae = WindowVae(task.image_size[0], vae)
        self.prior_odds = PriorSchedule(prior)
        self.scale_prior, self.shift_prior = Normal(*prior.scale), Normal(*prior.shift)
        self.temperature, self.pixel_std, self.clip_norm = temperature, pixel_std, clip_norm
        self.optimizers = {"air": optimizers.adam(self.parameters(), adam)}

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Step all networks on the negative evidence lower bound and return it with its terms."""
        images = batch.images
        error, kl, presence = self.bound(images, self.prior_odds())
        loss = (error + kl).mean()
        self.optimizers["air"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        self.optimizers["air"].step()
        terms = {
            "loss": loss,
            "error": error.mean(),
            "kl": kl.mean(),
            "objects": presence.sum(1).mean(),
        }
        return {name: value.detach() for name, value in terms.items()}

    def bound(self, images: Tensor, prior_log_odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms of the bound from one sample of the posterior, per image.

        Args:
            images: (B, C, H, W).
            prior_log_odds: (), of one more object.

        Returns:
            (B,) negative log likelihood, (B,) Kullback-Leibler divergence from the prior, both in
            nats, and (B, K) how far the object of each step is present, in [0, 1].
        """
        scene = self.explain(images, Normal.rsample, self.draw)
        std = images.new_full((), self.pixel_std)  # made where it is used
        likelihood = Normal(scene.synthesis, std, validate_args=False)
        error = -likelihood.log_prob(images).flatten(1).sum(1)
        presence_kl = concrete_kl(scene.logits, scene.samples, prior_log_odds, self.temperature)
        return error, divergence(scene.presence, presence_kl, scene.object_kl), scene.presence

    def draw(self, logits: Tensor) -> Tensor:
        """Return samples of z_pres before their sigmoid, with gradient, of any shape."""
        return sample_concrete(logits, self.temperature)

    def explain(
        self,
        images: Tensor,
        choose: Callable[[Normal], Tensor],
        choose_presence: Callable[[Tensor], Tensor],
    ) -> Scene:
        """Return the objects of (B, C, H, W) images, one step after another.

        Args:
            images: what to explain.
            choose: from a posterior to the value that is used, of z_where and z_what.
            choose_presence: the same for z_pres, from (B,) logits to values before their sigmoid.
        """
        canvas, reached, state, steps = torch.zeros_like(images), 1.0, None, []
        for _ in range(self.task.num_instances):
            unexplained = images - canvas
            # no gradient: what a step shows is not to serve the search of those after it
            posterior, state = self.recurrent(images, unexplained.detach(), state)
            where = choose(posterior.scale), choose(posterior.shift)
            window = to_boxes(*where, images.shape[-2:])
            code = self.encode(unexplained if self.recurrent.difference else images, window)
            patch = self.vae.decode(choose(code))
            sample = choose_presence(posterior.presence)
            reached = reached * sample.sigmoid()  # present only if all before are
            shown = reached[:, None, None, None] * patch
            canvas = canvas + paste_patches(shown[:, None], window[:, None], images.shape[-2:])
            kl = self.where_kl(posterior) + kl_divergence(code, Normal(0.0, 1.0)).sum(-1)
            steps.append((posterior.presence, sample, reached, window, patch, kl))
        return Scene(*(torch.stack(one, dim=1) for one in zip(*steps, strict=True)), canvas)

    def encode(self, images: Tensor, windows: Tensor) -> Normal:
        """Return q(z_what), (B, D), of one of (B, 4) windows in each of (B, C, H, W) images."""
        return self.vae.encode(sample_patches(images, windows[:, None], self.window_size)[:, 0])

    def where_kl(self, posterior: Posterior) -> Tensor:
        """Return (B,), the divergence of z_where from its prior, in nats."""
        scale = kl_divergence(posterior.scale, self.scale_prior)
        return (scale + kl_divergence(posterior.shift, self.shift_prior).sum(-1, True))[..., 0]

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return the objects up to the first improbable one, each at the mean of its posterior.

        A box has the side of the task, as other methods' have: the truth has one fixed side too,
        the digit's ink, while a window also holds its margin. Scores are the probability that
        there is one more object. Reconstruction and patches use the inferred windows.
        """
        scene = self.explain(images, attrgetter("mean"), surely)
        centers = scene.windows[..., :2]
        boxes = torch.cat([centers, torch.full_like(centers, self.task.box_size)], dim=-1)
        return [
            Prediction(box[k], score[k], reconstruction=image, patches=parts[k])
            for k, box, score, image, parts in zip(
                scene.presence.bool(),
                boxes,
                scene.logits.sigmoid(),
                scene.synthesis,
                scene.patches,
                strict=True,
            )
        ]


def surely(logits: Tensor) -> Tensor:
    """Return infinity with the sign of ``logits``, of any shape: z_pres is 0 or 1."""
    return torch.full_like(logits, torch.inf).copysign(logits)


def to_boxes(scale: Tensor, shift: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the (..., 4) cxcywh windows, px, of z_where.

    Args:
        scale: (..., 1), the logit of a window's side as a fraction of the image's.
        shift: (..., 2), xy; its tanh is -1 and 1 at the image's edges.
        image_size: (H, W).
    """
    H, W = image_size
    size = torch.stack([scale.new_full((), W), scale.new_full((), H)])
    centers = (shift.tanh() + 1) / 2 * size - 0.5
    return torch.cat([centers, scale.sigmoid() * size], dim=-1)


def divergence(presence: Tensor, presence_kl: Tensor, object_kl: Tensor) -> Tensor:
    """Return (B,), the divergence of all steps: each counts as far as it is reached.

    Args:
        presence: (B, K), the running product of z_pres.
        presence_kl: (B, K), of z_pres; counts where the object before is present.
        object_kl: (B, K), of z_where and z_what; counts where its own object is.
    """
    before = torch.cat([torch.ones_like(presence[:, :1]), presence[:, :-1]], dim=1)
    return (before * presence_kl + presence * object_kl).sum(1)


def build(
    task: TaskSpec,
    *,
    recurrent: RecurrentSpec = RecurrentSpec(),
    vae: VaeSpec = VaeSpec(),
    prior: PriorSpec = PriorSpec(),
    temperature: Positive = 1,
    pixel_std: Positive = 0.3,
    clip_norm: Positive = 1,
    adam: AdamSpec = AdamSpec(betas=(0.9, 0.999)),
) -> Air:
    """Return Attend-Infer-Repeat for ``task``.

    Args:
        task: reconstruction; K is the number of steps, so the most objects it can find.
        recurrent: the network that decides on each object.
        vae: the variational auto-encoder of windows.
        prior: what is believed of an object before the image is seen.
        temperature: of the binary Concrete distribution of z_pres, which is rounded at test.
        pixel_std: standard deviation of a pixel around the synthesis, images in [0, 1].
        clip_norm: largest norm of the gradient of all weights; it is scaled down to it.
        adam: the optimizer.
    """
    return Air(
        task,
        recurrent=recurrent,
        vae=vae,
        prior=prior,
        temperature=temperature,
        pixel_std=pixel_std,
        clip_norm=clip_norm,
        adam=adam,
    )


def check(task: TaskSpec) -> None:
    """Raise a ``ValueError`` for a task that is not reconstruction."""
    if task.kind != "reconstruction":
        raise ValueError(f"Attend-Infer-Repeat does reconstruction only, not {task.kind}")
