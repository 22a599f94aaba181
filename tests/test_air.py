import math

import pytest
import torch
import torch.nn.functional as F
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from mist_bench.baselines.parts.air import (
    Halved,
    PriorSchedule,
    PriorSpec,
    RecurrentEncoder,
    RecurrentSpec,
    VaeSpec,
    WindowVae,
    concrete_kl,
    sample_concrete,
)


def test_the_prior_schedule_by_hand():
    schedule = PriorSchedule(PriorSpec(odds=(1e4, 1e-2), tenfold=3))
    odds = [schedule().exp().item() for _ in range(22)]
    assert odds[0] == pytest.approx(1e4)
    assert odds[3] == pytest.approx(1e3)
    assert odds[12] == pytest.approx(1.0)
    assert odds[1] == pytest.approx(1e4 / 10 ** (1 / 3))
    assert odds[18:] == [pytest.approx(1e-2)] * 4


def test_odds_that_grow_are_refused():
    with pytest.raises(ValueError, match="odds must not grow, got 1 and then 2"):
        PriorSpec(odds=(1, 2))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_divergence_of_concretes_is_the_difference_of_torchs_densities(temperature):
    generator = torch.Generator().manual_seed(0)
    logits, prior, sample = (torch.randn(50, generator=generator) for _ in range(3))
    one, two = (LogitRelaxedBernoulli(torch.tensor(temperature), logits=m) for m in (logits, prior))
    torch.testing.assert_close(
        concrete_kl(logits, sample, prior, temperature),
        one.log_prob(sample) - two.log_prob(sample),
    )


@pytest.mark.parametrize(("logit", "temperature"), [(1.0, 0.5), (1.0, 1.0), (-60.0, 1.0)])
def test_the_divergence_of_concretes_is_positive_on_average(logit, temperature):
    """Even at logits that torch's sample clips, where it could be driven below 0."""
    torch.manual_seed(0)
    logits, prior = torch.full((20000,), logit), torch.tensor(-1.0)
    sample = sample_concrete(logits, temperature)
    mean = concrete_kl(logits, sample, prior, temperature).mean().item()
    # a trapezoid integral of q log(q / p), independent of the samples
    y = torch.linspace(-160, 80, 240001, dtype=torch.float64)
    a, b = logit - temperature * y, -1.0 - temperature * y
    log_q, log_p = (math.log(temperature) + c - 2 * F.softplus(c) for c in (a, b))
    assert mean == pytest.approx(torch.trapezoid(log_q.exp() * (log_q - log_p), y).item(), rel=0.05)
    assert concrete_kl(logits, sample, logits, temperature).abs().max() < 1e-5


def test_a_concrete_sample_has_the_gradient_of_its_logits():
    logits = torch.tensor([0.3, -2.0], requires_grad=True)
    sample_concrete(logits, 0.5).sum().backward()
    assert logits.grad.tolist() == [2.0, 2.0]


def test_the_window_decoder_mirrors_the_encoder_and_starts_dark():
    vae = WindowVae(2, VaeSpec(window_size=6, widths=(40, 30), latents=5))
    shapes = [tuple(one.weight.shape) for one in vae.decoder if isinstance(one, torch.nn.Linear)]
    assert shapes == [(30, 5), (40, 30), (72, 40)]
    windows = vae.decode(torch.zeros(3, 5))
    assert windows.shape == (3, 2, 6, 6)
    assert windows.mean() < 0.2
    assert vae.encode(windows).mean.shape == (3, 5)


PRIOR = PriorSpec(scale=(-1.0, 0.2), shift=(0.5, 2.0), odds=(4.0, 1.0))


def encoder(networks, difference):
    torch.manual_seed(0)
    spec = RecurrentSpec(networks=networks, difference=difference, units=8, hidden=4)
    return RecurrentEncoder((1, 32, 36), spec, PRIOR)


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize(("networks", "seen"), [("compact", 8), ("official", 1152)])
def test_the_posterior_starts_at_the_prior(networks, difference, seen):
    recurrent = encoder(networks, difference)
    pixels = networks == "official"
    assert recurrent.cell.input_size == (seen * (1 + difference) if pixels else seen)
    for head in recurrent.heads.values():
        torch.nn.init.zeros_(head[-1].weight)
    posterior, state = recurrent(torch.rand(2, 1, 32, 36), torch.rand(2, 1, 32, 36), None)
    assert [tuple(one.shape) for one in state] == [(2, 8), (2, 8)]
    torch.testing.assert_close(posterior.presence, torch.full((2,), math.log(4)))
    for name, size in (("scale", 1), ("shift", 2)):
        one, (mean, std) = getattr(posterior, name), getattr(PRIOR, name)
        torch.testing.assert_close(one.mean, torch.full((2, size), mean))
        torch.testing.assert_close(one.stddev, torch.full((2, size), std))


@pytest.mark.parametrize("networks", ["compact", "official"])
@pytest.mark.parametrize("difference", [False, True])
def test_it_sees_what_is_not_explained_only_if_told(networks, difference):
    recurrent, images = encoder(networks, difference), torch.rand(2, 1, 32, 36)
    one, _ = recurrent(images, images, None)
    other, _ = recurrent(images, torch.zeros_like(images), None)
    assert one.shift.mean.equal(other.shift.mean) is not difference


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_halved_images_are_those_of_average_pooling(size):
    images = torch.rand(2, 3, *size)
    torch.testing.assert_close(Halved()(images), F.avg_pool2d(images, 2))


def test_a_step_depends_on_the_state_after_the_one_before():
    recurrent, images = encoder("compact", difference=True), torch.rand(2, 1, 32, 36)
    one, state = recurrent(images, images, None)
    other, _ = recurrent(images, images, state)
    assert not one.presence.equal(other.presence)
