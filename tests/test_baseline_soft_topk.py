"""Xie20 and the mask methods that share its network: loss, boxes, sizes, contract."""

import math

import pytest
import torch
from torch import nn

from mist_bench.baselines import relaxed_topk, soft_topk
from mist_bench.baselines.soft_topk import RegionNetwork, RegionSpec, entropy, masked_loss
from mist_bench.models.heads import CompactClassifier, classification_loss
from mist_bench.models.heatmap import CompactHeatmap
from mist_bench.models.specs import AdamPairSpec
from mist_bench.types import Batch, TaskSpec

TASK = TaskSpec("classification", (1, 40, 48), num_instances=3, num_classes=5, box_size=20)
SMALL = {
    "network": RegionSpec(channels=8, blocks=1, head_channels=16),
    "nms_kernel": 1,
    "mirror": False,
    "adam": AdamPairSpec(lr_detector=0.01, lr_task=0.01),
}
ITERATIONS = {"exact": 0, "sinkhorn": 100}
# operator -> temperature, samples
RELAXED = {
    "lapsum": (0.05, 0),
    "sparse": (0.2, 0),
    "perturbed": (0.1, 20),
    "subset": (0.5, 0),
    "ats": (0, 0),
    "random": (0, 0),
    "dense": (0, 0),
}
EVERY = pytest.mark.parametrize("name", [*ITERATIONS, *RELAXED])


def make(name, **changes):
    """Return the small method whose operator is ``name``, from seed 0."""
    torch.manual_seed(0)
    if name in ITERATIONS:
        params = {"epsilon": 0.1, "iterations": ITERATIONS[name]}
        return soft_topk.build(TASK, **SMALL | params | changes)
    temperature, samples = RELAXED[name]
    params = {"operator": name, "temperature": temperature, "samples": samples}
    return relaxed_topk.build(TASK, **SMALL | params | changes)


def batch(size=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(size, *TASK.image_size, generator=generator)
    labels = [torch.randint(0, 5, (3,), generator=generator).sort().values for _ in range(size)]
    return Batch(images, labels)


def cell_map(values, size=(10, 12)):
    """Return a (1, h, w) map, 0 but for values {(row, column): value}."""
    scores = torch.zeros(1, *size)
    for (row, column), value in values.items():
        scores[0, row, column] = value
    return scores


def test_masked_loss_by_hand():
    # mean of what the mask selects: (1, 0) and half of each of (0, 1), over K = 2
    probs = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]])  # (1, 2, 3)
    mask = torch.tensor([[1.0, 0.5, 0.5]])
    loss = masked_loss(probs, mask, torch.tensor([[1.0, 0.0]]), 2)
    assert loss.item() == pytest.approx(0.5 * (0.5**2 + 0.5**2))


def test_masked_loss_of_a_selection_is_mists():
    torch.manual_seed(0)
    probs, index = torch.rand(2, 5, 12).softmax(1), torch.tensor([[0, 3, 7], [1, 2, 11]])
    mask = torch.zeros(2, 12).scatter(1, index, 1.0)
    histogram = torch.rand(2, 5).softmax(1)
    chosen = probs.transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 5))
    wanted = classification_loss(chosen, histogram)
    torch.testing.assert_close(masked_loss(probs, mask, histogram, 3), wanted)


def test_entropy_by_hand():
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [200.0, 0.0, 0.0, 0.0]])
    assert entropy(scores).tolist() == pytest.approx([math.log(4), 0])


@pytest.mark.parametrize(("blocks", "field"), [(1, 28), (2, 36)])
def test_what_a_location_sees(blocks, field):
    spec = RegionSpec(channels=4, blocks=blocks, head_channels=4)
    network = RegionNetwork(1, 3, spec).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.abs_()
    image = torch.rand(1, 1, 80, 80, requires_grad=True)
    scores, _ = network(image)
    assert scores.shape == (1, 20, 20)
    scores[0, 10, 10].backward()
    rows = image.grad[0, 0].any(1).nonzero().flatten()
    assert len(rows) == rows[-1] - rows[0] + 1 == field
    assert (rows[0] + rows[-1]).item() / 2 == 10 * 4 + 1.5, "the cell's box is off center"


def test_size_is_mists():
    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    own = count(RegionNetwork(1, 10, RegionSpec(blocks=2, head_channels=288)))
    mist = count(CompactHeatmap(1, 32, 2, 4, outputs=3)) + count(CompactClassifier(1, 16, 10))
    assert (own, mist) == (116_299, 117_949)


def predict_with(method, scores, monkeypatch):
    probs = torch.rand(1, 5, *scores.shape[1:]).softmax(1)
    monkeypatch.setattr(method.network, "forward", lambda images: (scores, probs))
    (one,) = method.predict(torch.zeros(1, *TASK.image_size))
    return one, probs


def test_boxes_are_the_best_cells(monkeypatch):
    scores = cell_map({(2, 3): 0.5, (0, 0): 0.9, (9, 11): 0.7})
    one, probs = predict_with(make("exact"), scores, monkeypatch)
    assert one.boxes.tolist() == [[1.5, 1.5, 20, 20], [45.5, 37.5, 20, 20], [13.5, 9.5, 20, 20]]
    assert one.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert torch.equal(one.probs[2], probs[0, :, 2, 3])
    assert torch.equal(one.labels, one.probs.argmax(1))


@pytest.mark.parametrize(("kernel", "columns"), [(1, [13.5, 17.5, 37.5]), (3, [13.5, 37.5, 25.5])])
def test_suppression_of_neighbors(kernel, columns, monkeypatch):
    scores = cell_map({(4, 3): 0.9, (4, 4): 0.8, (4, 9): 0.7, (4, 6): 0.6})
    one, _ = predict_with(make("exact", nms_kernel=kernel), scores, monkeypatch)
    assert one.boxes[:, 0].tolist() == columns


@EVERY
def test_a_step_lowers_the_loss(name):
    method, given = make(name).train(), batch()
    losses = [method.train_step(given)["loss"] for _ in range(25)]
    assert all(math.isfinite(loss) for loss in losses)
    # a random mask still finds the most common label
    assert min(losses[-5:]) < 0.75 * losses[0]


@EVERY
def test_what_a_step_trains(name):
    method = make(name).train()
    before = {key: value.clone() for key, value in method.network.named_parameters()}
    method.train_step(batch())
    moved = {k for k, v in method.network.named_parameters() if not torch.equal(v, before[k])}
    # a mask knows no common offset of scores, and the bounds no scores at all
    still = {"score.bias", "score.weight"} if name in ("random", "dense") else {"score.bias"}
    assert moved | still >= set(before)
    assert ("score.weight" in moved) == (name not in ("random", "dense"))


@EVERY
def test_predictions_do_not_depend_on_the_batch(name):
    method, images = make(name).eval(), batch().images
    together = method.predict(images)
    for image, one in zip(images, together, strict=True):
        (alone,) = method.predict(image[None])
        assert one.boxes.shape == (3, 4)
        assert torch.equal(alone.boxes, one.boxes)
        torch.testing.assert_close(alone.probs, one.probs)
        assert one.probs.sum(1).tolist() == pytest.approx([1] * 3)
        assert not one.probs.requires_grad
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)


@EVERY
def test_weights_are_all_there_is(name):
    first, images = make(name).eval(), batch().images
    torch.manual_seed(9)
    other = make(name)
    for parameter in other.parameters():
        parameter.data.normal_()
    other.load_state_dict(first.state_dict())
    other.eval()
    for one, same in zip(first.predict(images), other.predict(images), strict=True):
        assert torch.equal(one.boxes, same.boxes)


def test_every_parameter_has_one_optimizer():
    method = make("exact")
    owned = [p for o in method.optimizers.values() for g in o.param_groups for p in g["params"]]
    assert sorted(map(id, owned)) == sorted(map(id, method.parameters()))


def test_sinkhorn_steps_as_the_closed_form_does():
    exact, sinkhorn = make("exact"), make("sinkhorn", iterations=400)
    for method in (exact, sinkhorn):
        method.train().train_step(batch())
    for one, other in zip(exact.parameters(), sinkhorn.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_dense_selects_the_most_certain():
    method, images = make("dense").eval(), batch().images
    _, probs = method.network(images)
    for one, own in zip(method.predict(images), probs, strict=True):
        wanted = own.amax(0).flatten().topk(3).values
        torch.testing.assert_close(one.scores, wanted)


def test_random_selects_the_same_everywhere():
    first, *others = make("random").eval().predict(batch().images)
    assert all(torch.equal(first.boxes, one.boxes) for one in others)


def test_entropy_is_raised():
    given = batch()
    method = make("ats", entropy_weight=1.0).train()

    def spread():
        with torch.no_grad():
            return entropy(method.network(given.images)[0].flatten(1)).mean().item()

    method.network.score.weight.data.mul_(10)
    before = spread()
    for _ in range(5):
        method.train_step(given)
    assert spread() > before


@pytest.mark.parametrize(
    ("operator", "temperature", "samples", "message"),
    [
        ("lapsum", 0.1, 5, "operator lapsum has no samples: give 0, not 5"),
        ("lapsum", 0, 0, "operator lapsum needs temperature above 0, not 0"),
        ("dense", 0.5, 0, "operator dense has no temperature: give 0, not 0.5"),
        ("perturbed", 0.1, 0, "operator perturbed needs samples above 0, not 0"),
    ],
)
def test_numbers_that_do_not_fit(operator, temperature, samples, message):
    with pytest.raises(ValueError, match=message):
        relaxed_topk.check(TASK, operator=operator, temperature=temperature, samples=samples)


@pytest.mark.parametrize(("networks", "stride"), [("compact", 1), ("features", 4)])
def test_networks_have_their_own_strides(networks, stride):
    with pytest.raises(ValueError, match=f"networks {networks} has stride .*, not {stride}"):
        RegionSpec(networks=networks, stride=stride)


def test_a_region_network_on_features_keeps_the_map():
    spec = RegionSpec(networks="features", channels=8, blocks=1, stride=1, head_channels=12)
    network = RegionNetwork(6, 4, spec).eval()
    scores, probs = network(torch.rand(2, 6, 5, 7))
    assert scores.shape == (2, 5, 7)
    assert probs.shape == (2, 4, 5, 7)
    features = torch.rand(1, 6, 9, 9, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(features)[0][0, 4, 4], features)
    assert (gradient[0].abs().sum(0) > 0).any(0).sum() == 5  # two 3x3 convolutions
