"""``compat=official``: networks, training steps and quirks against the official code's."""

from functools import partial

import official_code as official
import pytest
import torch
from conftest import configuration
from safetensors.torch import save_file
from test_official_parity import imported as imported_into
from torch import nn

from mist_bench.backbones import resnet
from mist_bench.models.paper import with_image_statistics
from mist_bench.models.sampler import sample_patches
from mist_bench.models.selection import top_k
from mist_bench.official.weights import MNIST, PASCAL
from mist_bench.types import Batch

CLOSE = {"atol": 1e-5, "rtol": 0}
CONFIG = configuration("paper", compat="official")
KINDS = ("weight", "bias")
imported = partial(imported_into, config=CONFIG)


def random(*shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_mnist_is_tested_one_image_at_a_time_in_training_mode():
    """Three channels of unequal statistics, images that are bright at their edge, boxes beyond."""
    values = official.random_values(official.mnist_shapes(), 0, equal_statistics=False)
    method, w = imported(MNIST, values), official.in_float64(values)
    images = random(2, 1, 80, 80, seed=1)
    images[1] = 0.2 + 0.3 * images[1]
    for image, found in zip(images, method.predict(images), strict=True):
        colored = image[None].double().expand(-1, 3, -1, -1)
        heatmap = official.local_softmax(official.response(w, colored, training=True))
        boxes = official.boxes_like(official.top_cells(heatmap, 9), 20)
        probs = official.mnist_probs(w, colored, boxes)[0]
        torch.testing.assert_close(found.heatmap.double(), heatmap[0], **CLOSE)
        torch.testing.assert_close(found.boxes.double(), boxes[0], **CLOSE)
        torch.testing.assert_close(found.probs.double(), probs, **CLOSE)
        assert (boxes[0, :, :2] < 10).any()
        assert probs.std() > 0.05


@pytest.fixture(scope="module")
def pascal():
    """Values of a small PASCAL+COCO network, and features of four images."""
    values = official.random_values(official.pascal_shapes(channels=8, width=12), 5)
    head = values["detector"]
    head["backbone.detector_head.2.weight"] *= 0.05
    head["backbone.detector_head.2.bias"] = torch.tensor([1.0, 0.6, 0.4])
    return values, random(4, 256, 14, 14, seed=6)


OPTIONS = {"detector": {"channels": 8}, "classifier": {"channels": 12, "patch_size": 8}}


def test_pascal_with_boxes_that_leave_the_map(pascal):
    values, features = pascal
    method, w, maps = imported(PASCAL, values, **OPTIONS), official.in_float64(values), features
    heatmap, offsets = official.pascal_maps(w, maps.double())
    boxes = official.pascal_boxes(heatmap, offsets, 2)
    assert ((boxes[..., :2] < 3.5) | (boxes[..., :2] > 9.5)).any()
    probs = official.pascal_probs(w, maps.double(), boxes, 8)
    for i, found in enumerate(method.predict(features)):
        torch.testing.assert_close(found.boxes.double(), boxes[i], **CLOSE)
        torch.testing.assert_close(found.probs.double(), probs[i], **CLOSE)


def test_a_training_step_on_pascal(pascal):
    """Keypoints, losses and every gradient; patches have background among their labels."""
    values, features = pascal
    # in float64, where rounding does not hide a wrong term
    method = imported(PASCAL, values, **OPTIONS).train().double()
    w, features = official.in_float64(values), features.double()
    labels = torch.tensor([[3, 0], [7, 7], [12, 20], [0, 1]])
    lr = method.keypoints.lr * len(features)  # there on the mean of the batch, here on each image
    start, moved, task, heat = official.pascal_step(w, features, labels, 8, 2, lr)
    assert 0.2 < (moved - start).norm(dim=-1).mean() < 3
    assert ((moved > 0) & (moved < 14)).all()
    assert torch.exp(-5 * task).std() > 1e-3  # what weighs images differs, and is not 1

    batch = Batch(features, list(labels))
    heatmap, offsets = method.detector(features)
    begun, _ = method.detector.extract(heatmap, offsets, 2)
    found = method.update_keypoints(features, begun, method.head.targets(batch))
    torch.testing.assert_close(begun, official.boxes_like(start, 7), **CLOSE)
    torch.testing.assert_close(found, official.boxes_like(moved, 7), **CLOSE)
    loss, _ = method.detector.loss(heatmap, offsets, found)
    torch.testing.assert_close(loss, heat, **CLOSE)

    assert float(method.train_step(batch)["loss"]) == pytest.approx(task.mean().item(), abs=1e-9)
    compare_gradients(method, w)


def compare_gradients(method, w):
    """Compare every gradient that the step has left with the one in w, which must not be 0."""
    ours = {name: one.grad for name, one in method.named_parameters()}
    layers = {
        "detector.network.features.0": "detector.backbone.detector_head.0",
        "detector.network.head": "detector.backbone.detector_head.2",
        "head.network.stage.pointwise": "classifier.cnn.first",
        "head.network.logits": "classifier.fcn.0",
    }
    for i in range(3):
        one, other = f"head.network.stage.blocks.{i}", f"classifier.cnn.blocks.{i}"
        layers |= {f"{one}.first": f"{other}.block.0", f"{one}.second": f"{other}.block.3"}
        layers |= {f"{one}.norm": f"{other}.norm"}
    assert {f"{own}.{kind}" for own in layers for kind in KINDS} == set(ours)
    for own, theirs in layers.items():
        for kind in KINDS:
            wanted = w[f"{theirs}.{kind}"].grad
            assert wanted.abs().max() > 0
            limit = 1e-5 * wanted.abs().max()
            torch.testing.assert_close(ours[f"{own}.{kind}"], wanted, atol=limit, rtol=0)


def test_offsets_count_the_same_for_every_image_unless_told_otherwise(pascal):
    """What the switch changes is the gradient of the offsets' part alone (A3)."""
    values, features = pascal
    batch = Batch(features, [torch.tensor([3, 0])] * 4)
    grads = {}
    for weighed in (False, True):
        method = imported(PASCAL, values, **OPTIONS, official={"weigh_offsets": weighed}).train()
        method.train_step(batch)
        grads[weighed] = method.detector.network.head.bias.grad
    assert grads[True][0] == grads[False][0]
    assert (grads[True][1:] / grads[False][1:]).abs().max() < 0.95


def test_a_sample_beyond_the_outermost_pixels():
    """Columns at -1, -.5, 0, .5 and 1; at 2, 2.5, 3, 3.5 and 4; of an image of four."""
    image = torch.tensor([[[[1.0, 2, 3, 4]] * 3]])
    boxes = torch.tensor([[[0.0, 1, 2, 0], [3, 1, 2, 0]]])
    found = sample_patches(image, boxes, 5, official_border=True)[0, :, 0, 0]
    assert found.tolist() == [[0, 1, 1, 1.5, 2], [3, 3.5, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_patches_and_their_gradients_are_the_official_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 11, 14, dtype=torch.float64, generator=generator)
    boxes = torch.rand(2, 6, 4, dtype=torch.float64, generator=generator) * 24 - 5
    boxes[..., 2:] = boxes[..., 2:].abs()
    boxes[:, :2] = boxes[:, :2].round()  # on pixels' centers, where gradients jump
    boxes.requires_grad_()
    found = sample_patches(images, boxes, 5, official_border=True)
    expected = official.patches(images, boxes, 5).view_as(found)
    torch.testing.assert_close(found, expected)
    assert (found != sample_patches(images, boxes, 5)).any()
    ours, theirs = (torch.autograd.grad(one.square().sum(), boxes)[0] for one in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_suppressed_cells_outrank_negative_maxima():
    heatmap = -torch.ones(1, 1, 7)
    heatmap[0, 0, [1, 5]] = torch.tensor([0.5, -0.5])  # windows of 3: cells 1 and 5, and 3 between
    index, scores = top_k(heatmap, 3, 3)
    assert index[0].tolist() == [1, 5, 3]
    assert scores[0].tolist() == [0.5, -0.5, -1]
    index, scores = top_k(heatmap, 3, 3, zeros=True)
    assert index[0, 0] == 1
    assert set(index[0, 1:].tolist()) <= {0, 2, 4, 6}
    assert scores[0].tolist() == [0.5, 0, 0]


def test_a_network_with_image_statistics_is_one_that_never_leaves_training_mode():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    images = random(3, 2, 8, 9, seed=0)
    images[2] *= 9
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([2.0, 3, 4]))
        network.train()(images)  # averages that are of no use later
        expected = torch.cat([network(one[None]) for one in images])
        found = with_image_statistics(network).eval()(images)
    torch.testing.assert_close(found, expected)
    names = {name for name, _ in network.named_parameters()}
    assert {"1.weight", "3.bias"} <= names


def test_the_backbone_is_one_that_never_leaves_training_mode(tmp_path):
    trunk = resnet.trunk()
    save_file(trunk.state_dict(), tmp_path / "trunk.safetensors")
    options = {"weights": str(tmp_path / "trunk.safetensors"), "mean": [0] * 3, "std": [1] * 3}
    images = random(2, 3, 48, 48, seed=3)
    with torch.no_grad():
        expected = torch.cat([trunk.train()(one[None]) for one in images])
        found = resnet.build(**options, image_statistics=True)(images)
        other = resnet.build(**options)(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (other - expected).abs().mean() > 0.1
