"""Esl16: Attend-Infer-Repeat, a recurrent variational auto-encoder of scenes (Suppl. Sec. C.2).

An LSTM goes over the image and decides at each step whether there is one more object (z_pres),
where (z_where) and, by a variational auto-encoder of that window, what it shows (z_what). The
image is explained as the sum of the decoded windows (Eslami et al. 2016). Without labels and boxes.

As in the implementation that the paper used, z_pres is relaxed to a binary Concrete variable, so
that all gradients are pathwise. Deviations from it, each a row of deviations.csv: a Gaussian
likelihood, because images are gray and their sum need not stay in [0, 1], instead of a Bernoulli
one; a running product of z_pres, Eslami's "present only if all before are", instead of a
threshold; no noise in the decoder.

Shapes: B images, K steps, C channels, H W image, p window side.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from mist_bench.models.air import (
    Posterior,
    PriorSchedule,
    RecurrentEncoder,
    WindowVae,
    concrete_kl,
    running_product,
    sample_concrete,
)
from mist_bench.models.heatmap import Networks
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.types import Batch, Prediction, Supervision, TaskSpec


class Air(nn.Module):
    """Attend-Infer-Repeat with K steps; see ``build`` for the arguments."""

    supervision: ClassVar[Supervision] = "none"

    def __init__(
        self,
        recurrent: RecurrentEncoder,
        vae: WindowVae,
        prior_odds: PriorSchedule,
        *,
        task: TaskSpec,
        window_size: int,
        scale_prior: tuple[float, float],
        shift_prior: tuple[float, float],
        pixel_std: float,
        clip_norm: float,
        temperature: float,
        optimizers: dict[str, torch.optim.Optimizer],
    ):
        super().__init__()
        self.recurrent, self.vae, self.prior_odds = recurrent, vae, prior_odds
        self.task, self.window_size = task, window_size
        self.scale_prior, self.shift_prior = Normal(*scale_prior), Normal(*shift_prior)
        self.pixel_std, self.clip_norm, self.optimizers = pixel_std, clip_norm, optimizers
        self.temperature = temperature

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Step all networks on the negative evidence lower bound and return it with its terms."""
        images = batch.images
        error, kl, presence = self.bound(images, self.prior_odds())
        loss = (error + kl).mean()
        self.optimizers["air"].zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        self.optimizers["air"].step()
        terms = [loss, error.mean(), kl.mean(), presence.sum(1).mean()]
        scalars = torch.stack(terms).tolist()
        return dict(zip(("loss", "error", "kl", "objects"), scalars, strict=True))

    def bound(self, images: Tensor, prior_log_odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms of the bound from one sample of the posterior, per image.

        Args:
            images: (B, C, H, W).
            prior_log_odds: (), of one more object.

        Returns:
            (B,) negative log likelihood, (B,) Kullback-Leibler divergence from the prior, both in
            nats, and (B, K) how far the object of each step is present, in [0, 1].
        """
        posterior = self.recurrent(images, self.task.num_instances)
        windows = to_boxes(posterior.scale.rsample(), posterior.shift.rsample(), images.shape[-2:])
        code = self.encode(images, windows)
        patches = self.decode(code.rsample(), len(images))
        sample = sample_concrete(posterior.presence, self.temperature)
        presence = running_product(sample.sigmoid())

        shown = presence[..., None, None, None] * patches
        pixels = paste_patches(shown, windows, images.shape[-2:])
        likelihood = Normal(pixels, self.pixel_std, validate_args=False)
        error = -likelihood.log_prob(images).flatten(1).sum(1)

        presence_kl = concrete_kl(posterior.presence, sample, prior_log_odds, self.temperature)
        code_kl = kl_divergence(code, Normal(0.0, 1.0)).sum(-1).view_as(presence)
        kl = divergence(presence, presence_kl, self.where_kl(posterior) + code_kl)
        return error, kl, presence

    def encode(self, images: Tensor, windows: Tensor) -> Normal:
        """Return q(z_what), (B K, D), of (B, K, 4) windows of (B, C, H, W) images."""
        return self.vae.encode(sample_patches(images, windows, self.window_size).flatten(0, 1))

    def decode(self, codes: Tensor, images: int) -> Tensor:
        """Return (B, K, C, p, p) windows of (B K, D) codes of B ``images``."""
        return self.vae.decode(codes).unflatten(0, (images, -1))

    def where_kl(self, posterior: Posterior) -> Tensor:
        """Return (B, K), the divergence of z_where from its prior, in nats."""
        scale = kl_divergence(posterior.scale, self.scale_prior)
        return (scale + kl_divergence(posterior.shift, self.shift_prior).sum(-1, True))[..., 0]

    @torch.no_grad()
    def predict(self, images: Tensor) -> list[Prediction]:
        """Return the objects up to the first improbable one, each at the mean of its posterior.

        A box has the side of the task, as other methods' have: the truth has one fixed side too,
        the digit's ink, while a window also holds its margin. Scores are the probability that
        there is one more object. Reconstruction and patches use the inferred windows.
        """
        posterior = self.recurrent(images, self.task.num_instances)
        windows = to_boxes(posterior.scale.mean, posterior.shift.mean, images.shape[-2:])
        patches = self.decode(self.encode(images, windows).mean, len(images))
        probability = posterior.presence.sigmoid()
        kept = (probability > 0.5).long().cumprod(1).bool()  # (B, K)
        shown = patches * kept[..., None, None, None]
        synthesis = paste_patches(shown, windows, images.shape[-2:])
        boxes = torch.cat(
            [windows[..., :2], torch.full_like(windows[..., 2:], self.task.box_size)], dim=-1
        )
        return [
            Prediction(box[k], score[k], reconstruction=image, patches=parts[k])
            for k, box, score, image, parts in zip(
                kept, boxes, probability, synthesis, patches, strict=True
            )
        ]


def to_boxes(scale: Tensor, shift: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the (B, K, 4) cxcywh windows, px, of z_where.

    Args:
        scale: (B, K, 1), the logit of a window's side as a fraction of the image's.
        shift: (B, K, 2), xy; its tanh is -1 and 1 at the image's edges.
        image_size: (H, W).
    """
    size = scale.new_tensor(image_size[::-1])  # W, H
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
    networks: Networks,
    units: int,
    hidden: int,
    window_size: int,
    vae_widths: list[int],
    latents: int,
    temperature: float,
    pixel_std: float,
    scale_prior: tuple[float, float],
    shift_prior: tuple[float, float],
    prior_odds: tuple[float, float],
    prior_tenfold: float,
    clip_norm: float,
    lr: float,
    betas: tuple[float, float],
) -> Air:
    """Return Attend-Infer-Repeat for ``task``.

    Args:
        task: reconstruction; K is the number of steps, so the most objects it can find.
        networks: official (the LSTM sees pixels) or compact (it sees convolutional features).
        units: units of the LSTM.
        hidden: units of the hidden layers from the LSTM to z_pres and z_where.
        window_size: p, samples per side of a window.
        vae_widths: units of the window encoder's hidden layers; the decoder's are their reverse.
        latents: size of z_what.
        temperature: of the binary Concrete distribution of z_pres, which is rounded at test.
        pixel_std: standard deviation of a pixel around the synthesis, images in [0, 1].
        scale_prior: mean and standard deviation of the logit of a window's side, as a fraction
            of the image's.
        shift_prior: mean and standard deviation of a window's place; tanh of it is -1 and 1 at
            the image's edges.
        prior_odds: odds of one more object, before the first step and after their decay.
        prior_tenfold: steps in which these odds fall to a tenth.
        clip_norm: largest norm of the gradient of all weights; it is scaled down to it.
        lr: Adam's learning rate.
        betas: Adam's decay rates.

    Raises:
        ValueError: for unknown ``networks``, a task that is not reconstruction, or odds that grow.
    """
    if task.kind != "reconstruction":
        raise ValueError(f"Attend-Infer-Repeat can do reconstruction only, got {task.kind}")
    recurrent = RecurrentEncoder(
        task.image_size,
        networks=networks,
        units=units,
        hidden=hidden,
        odds=prior_odds[0],
        scale_prior=scale_prior,
        shift_prior=shift_prior,
    )
    vae = WindowVae(task.image_size[0], window_size, vae_widths, latents)
    weights = [*recurrent.parameters(), *vae.parameters()]
    return Air(
        recurrent,
        vae,
        PriorSchedule(*prior_odds, prior_tenfold),
        task=task,
        window_size=window_size,
        scale_prior=tuple(scale_prior),
        shift_prior=tuple(shift_prior),
        pixel_std=pixel_std,
        clip_norm=clip_norm,
        temperature=temperature,
        optimizers={"air": torch.optim.Adam(weights, lr=lr, betas=tuple(betas))},
    )
