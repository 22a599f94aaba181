"""What imported weights compute here and what they compute in the official code."""

from dataclasses import replace

import official_code as official
import pytest
import torch
from conftest import configuration

from mist_bench.config import resolve as settings
from mist_bench.config.files import merge
from mist_bench.models.sampler import sample_patches
from mist_bench.official.weights import MNIST, PASCAL, TRUNK, convert
from mist_bench.run.method import build_method
from mist_bench.types import Batch

CLOSE = {"atol": 1e-5, "rtol": 0}
PAPER = configuration("paper")


def imported(experiment, values, instances=None, *, config=PAPER, **params):
    """Return MIST of a preset, with other sizes where given, with imported weights."""
    spec = settings.run_spec(config, experiment, "mist", 0)
    task = replace(spec.task, num_instances=instances or spec.task.num_instances)
    spec = spec.model_copy(update={"task": task, "params": merge(spec.params, params)})
    tensors = convert(official.joined(values), spec)
    method = build_method(spec, torch.device("cpu"))
    method.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(TRUNK)})
    return method.eval()


def gray(*shape, seed):
    """Random images with a black frame: see ``test_a_sample_beyond_the_outermost_pixels``."""
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    images[..., [0, -1], :], images[..., [0, -1]] = 0, 0
    return images, images.double().expand(-1, 3, -1, -1)


@pytest.mark.parametrize("equal_statistics", [True, False])
def test_mnist(equal_statistics):
    values = official.random_values(official.mnist_shapes(), 0, equal_statistics)
    method, w = imported(MNIST, values), official.in_float64(values)
    images, colored = gray(2, 1, 80, 80, seed=1)
    heatmap = official.local_softmax(official.response(w, colored))
    boxes = official.boxes_like(official.top_cells(heatmap, 9), 20)
    probs = official.mnist_probs(w, colored, boxes)
    for i, found in enumerate(method.predict(images)):
        torch.testing.assert_close(found.heatmap.double(), heatmap[i], **CLOSE)
        torch.testing.assert_close(found.boxes.double(), boxes[i], **CLOSE)
        torch.testing.assert_close(found.probs.double(), probs[i], **CLOSE)
        assert torch.equal(found.labels, probs[i].argmax(-1))
        assert (boxes[i, :, :2] < 10).any()  # boxes that leave the image are among them
    assert probs.std() > 0.05  # not a constant


def test_patches():
    """Boxes at whole and broken places, sampled as the official code does."""
    images, colored = gray(1, 1, 40, 50, seed=2)
    boxes = torch.tensor([[[20.0, 25, 20, 20], [14.3, 22.8, 20, 20], [47, 3.2, 20, 20]]])
    found = sample_patches(images, boxes, 32)[0]
    expected = official.patches(colored[:, :1], boxes.double())
    torch.testing.assert_close(found.double(), expected, **CLOSE)


def test_a_sample_beyond_the_outermost_pixels():
    """The one difference of the samplers: there 1 px repeated before, 0 from the last pixel on."""
    image = torch.ones(1, 1, 4, 4)
    boxes = torch.tensor([[[1.5, 1.0, 4, 1]]])  # columns -.5, .5, 1.5, 2.5 and 3.5
    assert sample_patches(image, boxes, 5)[0, 0, 0, 0].tolist() == [0.5, 1, 1, 1, 0.5]
    theirs = official.patches(image.double(), boxes.double(), 5)[0, 0, 0]
    assert theirs.tolist() == [1, 1, 1, 1, 0]


def test_a_training_step_on_mnist():
    shapes = official.mnist_shapes(channels=8, width=2)
    values = official.random_values(shapes, 3)
    values["detector"]["backbone.last.weight"] *= 5  # responses that the local softmax suppresses
    sizes = {"detector": {"channels": 8}, "classifier": {"channels": 2}}
    # in float64: steps this long would magnify the rounding of gradients
    method = imported(MNIST, values, 2, keypoints={"lr": 1e5}, **sizes).train().double()
    w = official.in_float64(values)
    images, colored = gray(4, 1, 48, 48, seed=4)
    images = images.double()
    labels = torch.tensor([[1, 7], [3, 3], [0, 9], [5, 2]])
    lr = method.keypoints.lr * len(images)  # there on the mean of the batch, here on each image
    start, moved, task, heat = official.mnist_step(w, colored, labels, 2, lr)
    assert 0.3 < (moved - start).norm(dim=-1).mean() < 3

    wanted = method.head.targets(Batch(images, list(labels)))
    heatmap, offsets = method.detector(images)
    begun, _ = method.detector.extract(heatmap, offsets, 2)
    found = method.update_keypoints(images, begun, wanted)
    torch.testing.assert_close(begun, official.boxes_like(start, 20), **CLOSE)
    torch.testing.assert_close(found, official.boxes_like(moved, 20), **CLOSE)

    scalars = method.train_step(Batch(images, list(labels)))
    assert scalars["loss"] == pytest.approx(task.mean().item(), abs=1e-9)
    assert scalars["heatmap_loss"] == pytest.approx(heat.mean().item(), abs=1e-9)
    assert scalars["offset_loss"] == 0
    compare_gradients(method, w)


def compare_gradients(method, w):
    """Compare every gradient; of the first layers, which see one channel here, by the chain rule.

    With W' = sum_c W_c g_c and b' = b + sum_c W_c h_c, dL/dW_c = g_c dL/dW' + h_c dL/db'.
    """
    ours = {name: one.grad for name, one in method.named_parameters()}
    first, norm = "detector.network.stage.pointwise", "detector.backbone.norm"
    scale, shift = (w[f"{norm}.{kind}"].detach()[:, None, None] for kind in KINDS)
    level = ours[f"{first}.bias"][:, None, None, None]
    ours[f"{first}.weight"] = ours[f"{first}.weight"] * scale + level * shift
    encoder = "head.network.encoder.levels.0.pointwise.weight"
    ours[encoder] = ours[encoder].expand(-1, 3, -1, -1)
    layers = [pair for names in STAGES for pair in stage_layers(*names)]
    layers.append(("detector.backbone.last", "detector.network.head"))
    layers.append(("classifier.classifier.dense", "head.network.logits"))
    for theirs, own in layers:
        for kind in KINDS:
            wanted = w[f"{theirs}.{kind}"].grad
            # imported weights are float32; the last bias has no effect on a softmax
            limit = 1e-4 * wanted.abs().max() + 1e-9
            torch.testing.assert_close(ours[f"{own}.{kind}"], wanted, atol=limit, rtol=0)
    assert len(layers) == 2 + (1 + 3 * 4) + 6 * (1 + 3 * 3)


KINDS = ("weight", "bias")
STAGES = (
    ("detector.backbone.resnet", "detector.network.stage", 4),
    *(
        (f"classifier.encoder.layers.{2 * i}", f"head.network.encoder.levels.{i}", 3)
        for i in range(5)
    ),
    ("classifier.encoder.layers.10", "head.network.encoder.last", 3),
)


def stage_layers(theirs, ours, blocks):
    yield f"{theirs}.first", f"{ours}.pointwise"
    for i in range(blocks):
        one, other = f"{theirs}.blocks.{i}", f"{ours}.blocks.{i}"
        yield f"{one}.block.0", f"{other}.first"
        yield f"{one}.block.3", f"{other}.second"
        yield f"{one}.norm", f"{other}.norm"


@pytest.fixture(scope="module")
def pascal():
    """Values of a small PASCAL+COCO network, its import, and features."""
    values = official.random_values(official.pascal_shapes(channels=8, width=12), 5)
    head = values["detector"]
    head["backbone.detector_head.2.weight"] *= 0.05
    head["backbone.detector_head.2.bias"] = torch.tensor([1.0, 0.6, 0.4])
    options = {"detector": {"channels": 8}, "classifier": {"channels": 12, "patch_size": 8}}
    features = torch.rand(6, 256, 14, 14, generator=torch.Generator().manual_seed(6))
    return values, imported(PASCAL, values, **options), features


def test_pascal(pascal):
    """Where responses and offsets are positive, and a box does not leave the map."""
    values, method, features = pascal
    w, maps = official.in_float64(values), features.double()
    heatmap, offsets = official.pascal_maps(w, maps)
    assert (heatmap > 0).all()
    assert (offsets > 0).all()
    boxes = official.pascal_boxes(heatmap, offsets, 2)
    probs = official.pascal_probs(w, maps, boxes, 8)
    inside = ((boxes[..., :2] >= 3.5) & (boxes[..., :2] < 9.5)).all(-1)
    assert inside.any()
    for i, found in enumerate(method.predict(features)):
        torch.testing.assert_close(found.heatmap.double(), heatmap[i], **CLOSE)
        torch.testing.assert_close(found.boxes.double(), boxes[i], **CLOSE)
        theirs, ours = probs[i][inside[i]], found.probs[inside[i]].double()
        torch.testing.assert_close(ours, theirs, **CLOSE)


def test_pascal_offsets_below_zero(pascal):
    """A ReLU keeps them at the cell."""
    values, method, features = pascal
    shift = torch.tensor([0.0, 0.0, 1.5])
    head = method.detector.network.head
    values = {part: dict(own) for part, own in values.items()}
    values["detector"]["backbone.detector_head.2.bias"] -= shift
    w = official.in_float64(values)
    boxes = official.pascal_boxes(*official.pascal_maps(w, features.double()), 2)
    with torch.no_grad():
        head.bias -= shift
        found = torch.stack([one.boxes for one in method.predict(features)])
        head.bias += shift
    torch.testing.assert_close(found.double(), boxes, **CLOSE)
    assert (boxes[..., 1] % 1 == 0).all()


def test_pascal_targets(pascal):
    """A keypoint at 3.7, 5.2 is of cell 3, 5, which is to have the offsets .7 and .2."""
    _, method, _ = pascal
    boxes = torch.tensor([[[3.7, 5.2, 7, 7]]])
    y, x = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    heatmap = torch.exp(-((x - 3) ** 2 + (y - 5) ** 2) / (2 * 0.875**2))[None]
    offsets = torch.zeros(1, 2, 14, 14)
    offsets[0, :, 5, 3] = torch.tensor([0.7, 0.2])
    for part in method.detector.loss(heatmap, offsets, boxes):
        assert part.item() == pytest.approx(0, abs=1e-12)
    offsets[0, 0, 5, 3] = 0.1
    expected = 0.1 * 0.6**2 / 2 / 2  # Huber's, of the mean of two coordinates
    response, displacement = method.detector.loss(heatmap, offsets, boxes)
    assert response.item() == pytest.approx(0, abs=1e-12)
    assert displacement.item() == pytest.approx(expected)
