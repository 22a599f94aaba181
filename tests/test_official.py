"""The paper's networks: sizes, shapes, one block by hand, and what the paper preset builds."""

import math

import numpy as np
import pytest
import torch
from conftest import configuration
from torch import nn

from mist_bench.config import resolve as settings
from mist_bench.models.detector import build_detector
from mist_bench.models.keypoint_step import KeypointStep
from mist_bench.models.paper import OfficialClassifier, OfficialHeatmap, SharedNormBlock
from mist_bench.models.specs import DetectorSpec, KeypointSpec
from mist_bench.run.method import build_method
from mist_bench.types import Batch, TaskSpec

CPU = torch.device("cpu")
DETECTOR = DetectorSpec(
    networks="official",
    channels=4,
    stride=1,
    softmax_kernel=15,
    nms_kernel=5,
    target_sigma=0,
    offset_weight=0,
    offset_kernel=1,
)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def paper():
    return configuration("paper")


@pytest.mark.parametrize(("in_channels", "parameters"), [(3, 74_407), (1, 74_339)])
def test_the_heatmap_network_has_the_official_size(in_channels, parameters):
    """At one channel, batch norm and the first convolution have 2 * 2 and 2 * 32 fewer."""
    assert count(OfficialHeatmap(in_channels, 32, 4, 1)) == parameters


@pytest.mark.parametrize(("in_channels", "parameters"), [(3, 2_095_408), (1, 2_095_392)])
def test_the_classifier_has_the_official_size(in_channels, parameters):
    classifier = OfficialClassifier(in_channels, 8, 10)
    assert count(classifier.encoder) == parameters
    assert count(classifier.logits) == 1_290


def test_heatmaps_are_as_large_as_images():
    images = torch.rand(2, 3, 20, 26)
    assert OfficialHeatmap(3, 4, 4, 1)(images).shape == (2, 1, 20, 26)
    assert OfficialHeatmap(3, 4, 2, 9)(images).shape == (2, 9, 20, 26)


def test_a_patch_of_32_px_becomes_one_vector():
    classifier = OfficialClassifier(3, 2, 10)
    patches = torch.rand(3, 3, 32, 32)
    assert classifier.encoder(patches).shape == (3, 32)
    logits = classifier(patches)
    assert logits.shape == (3, 10)
    assert (logits < 0).any()  # no softmax inside, unlike the official code


def normalize(maps, scale, shift):
    """Return (C, h, w) with mean 0 and variance 1 over everything, scaled per channel."""
    mean = sum(maps.ravel()) / maps.size
    variance = sum((value - mean) ** 2 for value in maps.ravel()) / maps.size
    return (maps - mean) / math.sqrt(variance + 1e-5) * scale[:, None, None] + shift[:, None, None]


def convolve(maps, weight, bias, padding):
    """Return the 3x3 correlation of (C, h, w) maps with (O, C, 3, 3) weights."""
    maps = np.pad(maps, ((0, 0), (padding, padding), (padding, padding)))
    height, width = maps.shape[1] - 2, maps.shape[2] - 2
    out = np.empty((len(weight), height, width))
    for o in range(len(weight)):
        for y in range(height):
            for x in range(width):
                out[o, y, x] = bias[o] + (weight[o] * maps[:, y : y + 3, x : x + 3]).sum()
    return out


@pytest.mark.parametrize(("padding", "crop"), [(0, slice(2, -2)), (1, slice(None))])
def test_a_block_uses_one_norm_twice(padding, crop):
    torch.manual_seed(0)
    block = SharedNormBlock(3, padding).double()
    nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.norm.bias)
    features = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    w = {name: value.numpy() for name, value in block.state_dict().items()}
    expected = []
    for maps in features.numpy():
        inner = convolve(maps, w["first.weight"], w["first.bias"], padding)
        inner = np.maximum(normalize(inner, w["norm.weight"], w["norm.bias"]), 0)
        branch = convolve(inner, w["second.weight"], w["second.bias"], padding)
        branch = normalize(branch, w["norm.weight"], w["norm.bias"])
        expected.append(np.maximum(maps[:, crop, crop] + branch, 0))
    np.testing.assert_allclose(block(features).detach().numpy(), np.stack(expected), atol=1e-12)


def without_norms(network):
    """Return the network without its group norms, through which every cell sees the whole map."""
    for block in network.stage.blocks:
        block.norm = nn.Identity()
    return network


def test_convolutions_see_17_px_around_each_cell():
    """Positive weights keep every ReLU open."""
    network = without_norms(OfficialHeatmap(1, 2, 4, 1).eval())
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    images = torch.rand(1, 1, 33, 35, requires_grad=True)
    network(images)[0, 0, 15, 18].backward()
    seen = torch.zeros(33, 35, dtype=torch.bool)
    seen[15 - 8 : 15 + 9, 18 - 8 : 18 + 9] = True
    assert torch.equal(images.grad[0, 0] != 0, seen)


def test_outside_the_image_is_its_reflection():
    torch.manual_seed(0)
    network = without_norms(OfficialHeatmap(1, 4, 2, 1).eval())
    images = torch.rand(1, 1, 9, 11)
    margin = ((0, 0), (0, 0), (4, 4), (4, 4))
    larger = torch.from_numpy(np.pad(images.numpy(), margin, mode="reflect"))
    inner = network(larger)[..., 4:-4, 4:-4]
    assert torch.allclose(network(images), inner, atol=1e-6)


def test_a_detector_without_offsets_has_one_channel_and_whole_keypoints():
    torch.manual_seed(0)
    detector = build_detector(1, 20.0, DETECTOR)
    heatmap, offsets = detector(torch.rand(2, 1, 24, 24))
    assert detector.network.head.out_channels == 1
    assert heatmap.shape == (2, 24, 24)
    assert torch.equal(offsets, torch.zeros(2, 2, 24, 24))
    boxes, _ = detector.extract(heatmap, offsets, 3)
    assert torch.equal(boxes[..., :2], boxes[..., :2].round())
    assert [part.shape for part in detector.loss(heatmap, offsets, boxes)] == [(2,), (2,)]


def test_the_local_softmax_subtracts_the_chosen_maximum():
    """A peak 2 below the highest fades only against the maximum of the whole map."""
    response = torch.full((1, 1, 24, 48), -10.0)
    response[0, 0, 12, 8], response[0, 0, 12, 40] = 2, 0
    found = {}
    for maximum in ("global", "local"):
        spec = DETECTOR.model_copy(update={"softmax_maximum": maximum})
        detector = build_detector(1, 20.0, spec)
        detector.network = nn.Identity()
        found[maximum] = detector(response)[0][0, 12, 40].item()
    assert found["global"] == pytest.approx(math.exp(-20) / (math.exp(-20) + 1e-6))
    assert found["local"] == pytest.approx(1, abs=1e-5)


def test_a_keypoint_step_without_limit_is_plain_gradient_descent():
    boxes = torch.tensor([[[10.0, 20, 5, 5], [1, 2, 5, 5]]])
    grad = torch.tensor([[[0.5, -1, 9, 9], [0, 0, 9, 9]]])
    moved = KeypointStep(KeypointSpec(lr=312.5, clip=None, steps=2, order="x_tau_eta")).move(
        boxes, boxes, grad
    )
    expected = torch.tensor([[[10 - 156.25, 20 + 312.5, 5, 5], [1, 2, 5, 5]]])
    assert torch.equal(moved, expected)


@pytest.fixture
def official_mist(paper):
    """MIST as the paper preset has it, on images of 40 px with two digits."""
    spec = settings.run_spec(paper, "mnist_hard_classification", "mist", 0)
    task = TaskSpec("classification", (1, 40, 40), 2, 10, 20.0)
    return build_method(spec.model_copy(update={"task": task}), CPU)


def test_one_step_of_mist_changes_both_networks(official_mist):
    method = official_mist
    before = {name: value.clone() for name, value in method.named_parameters()}
    labels = [torch.tensor([1, 2]), torch.tensor([3, 3])]
    scalars = method.train_step(Batch(torch.rand(2, 1, 40, 40), labels))
    assert all(math.isfinite(value) for value in scalars.values())
    assert scalars["keypoint_shift"] > 0
    still = [name for name, value in method.named_parameters() if torch.equal(value, before[name])]
    assert not still


def test_the_paper_preset_is_the_official_recipe(paper):
    spec = settings.run_spec(paper, "mnist_hard_classification", "mist", 0)
    sizes = paper.datasets["mnist_hard"].sizes
    epochs = spec.training.steps * spec.training.batch_size / sizes["train"]
    assert (sizes, epochs) == ({"train": 50_000, "val": 5_000, "test": 5_000}, 10)
    assert spec.params["keypoints"]["lr"] * spec.training.batch_size == 1e4  # on the batch's mean
    assert spec.task.image_size == (1, 80, 80)


def test_the_specification_keeps_a_missing_limit(paper):
    """JSON has no infinity: null is what survives the way through the workflow."""
    spec = settings.run_spec(paper, "mnist_hard_classification", "mist", 0)
    again = settings.RunSpec.model_validate_json(settings.canonical(spec))
    assert again == spec
    assert again.params["keypoints"]["clip"] is None


def test_the_paper_preset_builds_every_method(paper):
    for experiment, setup in paper.experiments.items():
        for name in setup.methods:
            spec = settings.run_spec(paper, experiment, name, 0)
            assert count(build_method(spec, CPU)) > 0


@pytest.mark.parametrize(("name", "outputs"), [("mist", 1), ("channelwise", 9), ("supervised", 1)])
def test_methods_of_the_paper_preset_share_its_networks(paper, name, outputs):
    """Only the heatmap's channels differ (Sec. 5.1): 32 weights and a bias for each."""
    spec = settings.run_spec(paper, "mnist_hard_classification", name, 0)
    assert count(build_method(spec, CPU)) == 74_339 + (outputs - 1) * 33 + 2_095_392 + 1_290
    own = settings.run_spec(paper, "mnist_hard_classification", "mist", 0).params
    assert spec.params["classifier"] == own["classifier"]
