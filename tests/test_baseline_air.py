import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mist_bench.baselines import air
from mist_bench.baselines.parts.air import PriorSpec, RecurrentSpec, VaeSpec
from mist_bench.evaluation.metrics import compute
from mist_bench.models.sampler import paste_patches
from mist_bench.models.specs import AdamSpec
from mist_bench.run.prediction import pack
from mist_bench.types import Batch, TaskSpec

TASK = TaskSpec("reconstruction", (1, 24, 24), num_instances=3, num_classes=0, box_size=8.0)
PARAMS = {
    "recurrent": RecurrentSpec(units=16, hidden=8),
    "vae": VaeSpec(window_size=8, widths=(32,), latents=4),
    "prior": PriorSpec(scale=(-1.0, 0.2), odds=(100.0, 0.01), tenfold=10.0),
    "adam": AdamSpec(lr=3e-3, betas=(0.9, 0.999)),
}


def build(task=TASK, **changes):
    """Return the small method; mappings change single fields of its specs."""
    torch.manual_seed(0)
    for name, spec in PARAMS.items():
        changes[name] = spec.model_copy(update=changes.get(name, {}))
    return air.build(task, **changes)


def images(size=4):
    """Return ``size`` images of which the first is empty and each other shows one square."""
    shown = torch.zeros(size, 1, 24, 24)
    for i in range(1, size):
        shown[i, 0, 3 * i : 3 * i + 8, 12:20] = 1
    return shown


def normal(mean, std):
    return Normal(torch.tensor(mean), torch.tensor(std))


def set_presence(method, logit):
    """Make the method sure (or not) of every step, whatever it sees."""
    last = method.recurrent.heads["presence"][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, logit)


def test_a_resumed_schedule_goes_on_where_it_was():
    one, other = build(), build()
    for _ in range(7):
        one.prior_odds()
    other.load_state_dict(one.state_dict())
    assert other.prior_odds.steps.item() == 7
    assert other.prior_odds().equal(one.prior_odds())


def test_windows_by_hand():
    # an image of 24 x 12 px spans [-0.5, 23.5] and [-0.5, 11.5]
    shift = torch.tensor([[[0.0, 0.0], [40.0, -40.0], [math.atanh(0.5), 0.0]]])
    scale = torch.tensor([[[0.0], [-math.log(3)], [40.0]]])  # sigmoid: 1/2, 1/4, 1
    boxes = air.to_boxes(scale, shift, (12, 24))
    expected = [[11.5, 5.5, 12, 6], [23.5, -0.5, 6, 3], [17.5, 5.5, 24, 12]]
    torch.testing.assert_close(boxes, torch.tensor([expected]))


def test_the_divergence_of_where_by_hand():
    method = build(prior={"scale": (-1.0, 0.5), "shift": (0.0, 2.0)})

    class Fixed:
        scale = normal([[0.0]], [[1.0]])
        shift = normal([[1.0, 0.0]], [[2.0, 2.0]])

    # log(sd_p / sd_q) + (sd_q^2 + (m_q - m_p)^2) / (2 sd_p^2) - 1/2
    scale = math.log(0.5) + (1 + 1) / (2 * 0.25) - 0.5
    shift = (4 + 1) / (2 * 4) - 0.5
    torch.testing.assert_close(method.where_kl(Fixed), torch.tensor([scale + shift]))


def test_each_step_counts_as_far_as_it_is_reached():
    presence = torch.tensor([[0.5, 0.25], [1.0, 0.0]])
    z, rest = torch.tensor([[1.0, 10.0], [1.0, 10.0]]), torch.tensor([[100.0, 1000.0]] * 2)
    # 1 x 1 + 0.5 x 10 + 0.5 x 100 + 0.25 x 1000; 1 x 1 + 1 x 10 + 1 x 100
    assert air.divergence(presence, z, rest).tolist() == [306.0, 111.0]


def test_the_bound_of_an_image_without_objects_by_hand():
    method = build().eval()
    set_presence(method, -100.0)
    shown = images()
    error, _, presence = method.bound(shown, torch.tensor(-100.0))
    assert presence.max() < 1e-30
    energy = shown.square().flatten(1).sum(1)
    expected = energy / (2 * 0.09) + 576 * math.log(0.3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(error, expected)


def test_the_bound_counts_the_divergence_of_codes():
    """With every object present for sure, KL is the sum of torch's over z_where and z_what."""
    method = build(vae={"latents": 2}).eval()
    set_presence(method, 100.0)
    torch.nn.init.constant_(method.recurrent.heads["scale"][-1].bias, -0.5)
    for encoder in (method.vae.encoder, *method.recurrent.heads.values()):
        torch.nn.init.zeros_(encoder[-1].weight)
    method.vae.encoder[-1].bias.data = torch.tensor([1.0, -1.0, 0.0, 2 * math.log(2)])
    _, kl, _ = method.bound(images(), torch.tensor(100.0))
    heads = method.recurrent.heads
    code = kl_divergence(normal([1.0, -1.0], [1.0, 2.0]), Normal(0.0, 1.0)).sum()
    stds = [(heads[f"{name}_log_var"][-1].bias / 2).exp() for name in ("scale", "shift")]
    scale = kl_divergence(Normal(heads["scale"][-1].bias, stds[0]), Normal(-1.0, 0.2)).sum()
    shift = kl_divergence(Normal(heads["shift"][-1].bias, stds[1]), Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl, (3 * (code + scale + shift)).expand(4), rtol=1e-3, atol=1e-2)


def test_the_bound_counts_the_divergence_of_presence_by_hand(monkeypatch):
    """Logits .3, a prior of -1, samples at 0, so that the next step is half as likely reached."""
    method = build(vae={"latents": 2}).eval()
    set_presence(method, 0.3)
    torch.nn.init.zeros_(method.vae.encoder[-1].weight)
    torch.nn.init.zeros_(method.vae.encoder[-1].bias)  # codes as their prior
    monkeypatch.setattr(method, "where_kl", lambda posterior: torch.zeros(4))
    monkeypatch.setattr(method, "draw", torch.zeros_like)
    _, kl, presence = method.bound(images(), torch.tensor(-1.0))
    assert presence[0].tolist() == [0.5, 0.25, 0.125]
    # at 0 a concrete's log density is log T + a - 2 log(1 + exp(a))
    each = 1.3 - 2 * (math.log(1 + math.exp(0.3)) - math.log(1 + math.exp(-1)))
    torch.testing.assert_close(kl, torch.full((4,), each * (1 + 0.5 + 0.25)))


def test_empty_images_give_finite_losses_and_gradients():
    method = build().train()
    scalars = method.train_step(Batch(torch.zeros(4, 1, 24, 24)))
    assert all(math.isfinite(value) for value in scalars.values())
    assert all(weight.isfinite().all() for weight in method.parameters())


def test_the_gradient_is_clipped():
    method = build(clip_norm=0.5).train()
    method.train_step(Batch(images()))
    norms = torch.stack([weight.grad.norm() for weight in method.parameters()])
    assert norms.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_the_loss_falls_on_a_few_images():
    method = build(adam={"lr": 1e-2}).train()
    losses = [method.train_step(Batch(images()))["loss"] for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 20


def fix_presence(method, *logits):
    """Make each step's z_pres the given one; return what the steps saw as not yet explained."""
    forward, steps, unexplained = method.recurrent.forward, iter(logits), []

    def fixed(shown, rest, state):
        posterior, state = forward(shown, rest, state)
        unexplained.append(rest)
        presence = torch.tensor(next(steps))
        return type(posterior)(presence, posterior.scale, posterior.shift), state

    method.recurrent.forward = fixed
    return unexplained


def test_each_step_sees_the_image_less_the_objects_before_it():
    """The first image has one object, the second has none before a step that is not reached."""
    method = build().eval()
    shown = images(2) + 0.1
    seen = fix_presence(method, [3.0, -1.0], [-1.0, 3.0], [3.0, 3.0])
    with torch.no_grad():
        scene = method.explain(shown, lambda posterior: posterior.mean, air.surely)
    assert scene.presence.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    first = paste_patches(scene.patches[:1, :1], scene.windows[:1, :1], (24, 24))
    assert first.max() > 0
    torch.testing.assert_close(scene.synthesis, torch.cat([first, torch.zeros_like(first)]))
    expected = [shown, *[shown - scene.synthesis] * 2]
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected))


@pytest.mark.parametrize("difference", [False, True])
def test_the_second_object_is_what_the_first_left_only_if_told(difference):
    method = build(recurrent={"difference": difference}).eval()
    fix_presence(method, [3.0], [3.0], [3.0])
    encode, seen = method.encode, []

    def spy(source, windows):
        seen.append(source)
        return encode(source, windows)

    method.encode = spy
    with torch.no_grad():
        scene = method.explain(images(2)[1:], lambda posterior: posterior.mean, air.surely)
    first = paste_patches(scene.patches[:, :1], scene.windows[:, :1], (24, 24))
    left = images(2)[1:] - first if difference else images(2)[1:]
    torch.testing.assert_close(seen[1], left)


def test_presence_is_the_product_of_what_was_drawn_and_carries_its_gradient():
    method = build().eval()
    logits = [torch.tensor([value], requires_grad=True) for value in (0.0, math.log(4), 0.0)]
    drawn = iter(logits)  # sigmoids 1/2, 4/5, 1/2
    scene = method.explain(images(1), Normal.rsample, lambda _: next(drawn))
    torch.testing.assert_close(scene.presence, torch.tensor([[0.5, 0.4, 0.2]]))
    (slope,) = torch.autograd.grad(scene.presence[0, 2], logits[1])
    assert slope.item() == pytest.approx(0.25 * 0.8 * 0.2)  # the others times s(1 - s)


def test_objects_end_at_the_first_improbable_one():
    method = build().eval()
    fix_presence(method, [3.0, -1.0], [-1.0, 3.0], [3.0, 3.0])
    one, none = method.predict(images(2))
    torch.testing.assert_close(one.scores, torch.tensor([3.0]).sigmoid())
    assert (one.boxes.shape, one.patches.shape) == ((1, 4), (1, 1, 8, 8))
    assert (one.boxes[:, 2:] == TASK.box_size).all()
    assert one.reconstruction.max() > 0
    assert (none.boxes.shape, none.patches.shape) == ((0, 4), (0, 1, 8, 8))
    assert none.reconstruction.abs().max() == 0


@pytest.mark.parametrize(("logit", "right"), [(-3.0, 0.5), (3.0, 0.0)])
def test_predictions_are_packed_and_measured_whatever_their_number(logit, right):
    method = build().eval()
    set_presence(method, logit)
    arrays = pack(method.predict(images(2)))
    arrays["labels"] = np.full(arrays["scores"].shape, -1)
    truth = {
        "images": images(2).numpy(),
        "counts": np.array([0, 1]),
        "labels": np.array([[-1], [-1]]),
        "boxes": np.array([[[0, 0, 0, 0]], [[15.5, 6.5, 8, 8]]], np.float32),
    }
    metrics = compute(TASK, truth, arrays)
    assert metrics["count_accuracy"] == right
    if logit < 0:
        assert arrays["patches"].shape == (2, 0, 1, 8, 8)
        assert metrics["rmse"] == metrics["rmse_zero"]
        assert metrics["iou50"] == 0


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="reconstruction only, not classification"):
        air.check(TaskSpec("classification", (1, 24, 24), 3, 10, 8.0))
