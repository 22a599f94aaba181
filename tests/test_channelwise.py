"""The channel-wise baseline: the soft-argmax by hand, and gradients from end to end."""

import pytest
import torch
from conftest import tiny_arrays

from mist_bench.baselines.channelwise import spatial_softargmax
from mist_bench.run.batches import make_batch
from mist_bench.run.method import build_method

CPU = torch.device("cpu")


def batch_of(size):
    return make_batch(tiny_arrays(10, seed=0), list(range(size)), "labels", CPU)


@pytest.fixture
def channelwise(tiny_spec):
    """A function that returns the method with some of its parameters changed."""
    return lambda seed=0, **params: build_method(tiny_spec("channelwise", seed, params), CPU)


def test_the_softargmax_by_hand():
    logits = torch.full((1, 2, 2, 3), -torch.inf)
    logits[0, 0, 1, 2] = 5  # all mass in one cell
    logits[0, 1, 0, 0] = torch.log(torch.tensor(3.0))  # 3/4 here, 1/4 there
    logits[0, 1, 1, 2] = 0
    mean, score = spatial_softargmax(logits)
    torch.testing.assert_close(mean, torch.tensor([[[2.0, 1.0], [0.5, 0.25]]]))
    torch.testing.assert_close(score, torch.tensor([[1.0, 0.75]]))


def test_a_flat_map_has_its_mean_in_the_middle():
    mean, score = spatial_softargmax(torch.zeros(1, 1, 3, 5))
    torch.testing.assert_close(mean, torch.tensor([[[2.0, 1.0]]]))
    assert score.item() == pytest.approx(1 / 15)


def test_the_gradient_of_the_softargmax_is_right():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: spatial_softargmax(x)[0], logits)


def test_cells_become_pixels_at_their_centers(channelwise, monkeypatch):
    method = channelwise(temperature=2.0)
    logits = torch.full((1, 2, 6, 6), -1e9)
    logits[0, 0, 4, 1] = logits[0, 1, 0, 5] = 0
    monkeypatch.setattr(method.network, "forward", lambda images: logits)
    boxes, _ = method.locate(torch.zeros(1, 1, 24, 24))
    assert boxes.tolist() == [[[4 + 1.5, 16 + 1.5, 8, 8], [20 + 1.5, 1.5, 8, 8]]]


def test_the_temperature_divides_the_heatmap(channelwise, monkeypatch):
    method = channelwise(temperature=2.0)
    logits = torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(method.network, "forward", lambda images: logits)
    _, scores = method.locate(torch.zeros(1, 1, 24, 24))
    torch.testing.assert_close(scores, spatial_softargmax(logits / 2)[1])


@pytest.mark.parametrize("mirror", [False, True])
def test_the_task_loss_reaches_the_heatmap_network(channelwise, mirror):
    method = channelwise(mirror=mirror, adam={"lr_task": 0}).train()
    before = [one.detach().clone() for one in method.network.parameters()]
    fixed = [one.detach().clone() for one in method.head.parameters()]
    assert set(method.train_step(batch_of(4))) == {"loss"}
    assert method.network.stem[0][0].weight.grad.abs().sum() > 0
    for now, old in zip(method.network.parameters(), before, strict=True):
        assert not now.equal(old)
    for now, old in zip(method.head.parameters(), fixed, strict=True):
        assert now.equal(old)


def test_boxes_of_reflections_are_reflected_back(channelwise, monkeypatch):
    """A heatmap network that finds the brightest cell leads to the same boxes either way."""
    method = channelwise(mirror=True, temperature=0.01).train()
    boxes = []
    monkeypatch.setattr(
        method.network,
        "forward",
        lambda images: (100 * torch.nn.functional.avg_pool2d(images, 4)).repeat(1, 2, 1, 1),
    )
    classify = method.head.forward
    monkeypatch.setattr(
        method.head, "forward", lambda images, b: boxes.append(b) or classify(images, b)
    )
    images = torch.zeros(16, 1, 24, 24)
    images[:, :, 4:8, 16:20] = 1
    batch = make_batch(
        {**tiny_arrays(16, seed=0), "images": images.numpy()}, list(range(16)), "labels", CPU
    )
    torch.manual_seed(0)
    method.train_step(batch)
    expected = torch.tensor([17.5, 5.5, 8, 8]).expand(16, 2, 4)
    torch.testing.assert_close(boxes[0], expected, atol=1e-3, rtol=0)


def test_the_loss_falls_on_a_few_images(channelwise):
    rates = {"lr_detector": 1e-2, "lr_task": 1e-2}
    method, batch = channelwise(seed=1, classifier={"channels": 8}, adam=rates).train(), batch_of(8)
    losses = [method.train_step(batch)["loss"] for _ in range(40)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_scores_are_peaks_of_probability(channelwise):
    method = channelwise().eval()
    for one in method.predict(batch_of(3).images):
        assert one.boxes.shape == (2, 4)
        assert one.scores.min() > 0
        assert one.scores.max() <= 1
