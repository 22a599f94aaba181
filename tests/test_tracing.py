"""One image through every stage: the trace is what the method computes, and changes nothing."""

import numpy as np
import pytest
import torch
from conftest import run_of
from safetensors.torch import load_file, save_file

from mist_bench.cli import main as cli
from mist_bench.config import resolve as settings
from mist_bench.config.files import merge
from mist_bench.datasets.files import load_split
from mist_bench.models.sampler import paste_patches, sample_patches
from mist_bench.run import checkpoint
from mist_bench.run.batches import to_images
from mist_bench.run.method import build_method
from mist_bench.run.prediction import predict_split
from mist_bench.run.tracing import trace, trace_image
from mist_bench.types import TaskSpec

CPU = torch.device("cpu")
TINY = TaskSpec("reconstruction", (1, 24, 24), num_instances=2, num_classes=0, box_size=8.0)
EXPERIMENT = "mnist_hard_reconstruction"
WITHOUT_OFFSETS = {"offset_weight": 0, "offset_kernel": 1}


@pytest.fixture
def spec():
    """A function that returns the smoke preset's MIST, cut down to images of 24 px."""

    def make(**params):
        run = run_of(experiment=EXPERIMENT)
        small = {"autoencoder": {"patch_size": 8, "extent": 9.0, "whole_pixels": False}}
        params = merge(merge(run.params, small), params)
        return run.model_copy(update={"task": TINY, "params": params})

    return make


@pytest.fixture
def images(tiny_dataset):
    return to_images(load_split(tiny_dataset, "test")["images"][:1], CPU)


def method_of(spec):
    return build_method(spec, CPU).eval()


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"detector": {"target_sigma": 0, **WITHOUT_OFFSETS}},
        {"autoencoder": {"extent": 7.0, "whole_pixels": True}},
        {"scales": [0.75, 1.5]},
    ],
)
def test_the_forward_stages_are_those_of_a_prediction(spec, images, params):
    method = method_of(spec(**params))
    stages = trace_image(method, images)
    (one,) = method.predict(images)
    for name, wanted in {
        "image": images[0],
        "heatmap": one.heatmap,
        "boxes": one.boxes,
        "decoded": one.patches,
        "reconstruction": one.reconstruction,
    }.items():
        np.testing.assert_array_equal(stages[name], wanted.detach().numpy(), err_msg=name)
    S = len(params.get("scales", [1.0]))
    h, w = stages["heatmap"].shape
    assert stages["scale_space"].shape == stages["target"].shape == (S, h, w)
    assert all(a.dtype == np.float32 for name, a in stages.items() if name != "maxima")


@pytest.mark.parametrize("scales", [[1.0], [0.75, 1.5]])
def test_the_target_is_what_the_heatmap_loss_compares_with(spec, images, scales):
    method = method_of(spec(scales=scales, detector=WITHOUT_OFFSETS))
    stages = trace_image(method, images)
    heatmap, maps = method.detector(images)
    loss, _ = method.detector.loss(heatmap, maps, torch.from_numpy(stages["moved"])[None])
    # Eq. 7, summed over scales
    difference = (stages["scale_space"] - stages["target"]) ** 2
    assert loss.item() == pytest.approx(difference.sum(0).mean(), rel=1e-5)


def test_keypoints_step_down_the_slope_of_the_task_loss(spec, images):
    method = method_of(spec(keypoints={"lr": 1.0, "clip": None, "penalty": 0}))
    stages = trace_image(method, images)
    step = (stages["moved"] - stages["boxes"])[:, :2]
    method, images = method.double(), images.double()
    boxes = torch.from_numpy(stages["boxes"])[None].double()

    def loss(k, axis, shift):
        moved = boxes.clone()
        moved[0, k, axis] += shift
        return method.head.loss(images, moved, images).item()

    for k, axis in np.ndindex(2, 2):
        slope = (loss(k, axis, 1e-6) - loss(k, axis, -1e-6)) / 2e-6
        assert step[k, axis] == pytest.approx(-slope, rel=1e-3, abs=1e-5)
    assert np.abs(step).max() > 1e-3


def test_patches_are_under_the_boxes_and_their_sum_is_the_synthesis(spec, images):
    stages = trace_image(method_of(spec()), images)
    squares = torch.from_numpy(stages["boxes"])[None].clone()
    squares[..., 2:] = 9
    patches = sample_patches(images, squares, 8)[0]
    np.testing.assert_allclose(stages["patches"], patches, atol=1e-6)
    pasted = paste_patches(torch.from_numpy(stages["decoded"])[None], squares, (24, 24))
    np.testing.assert_allclose(stages["reconstruction"], pasted[0], atol=1e-5)


def test_maxima_are_the_highest_of_their_windows(spec, images):
    stages = trace_image(method_of(spec(detector={"nms_kernel": 3})), images)
    heatmap, maxima = stages["heatmap"], stages["maxima"]
    padded = np.pad(heatmap, 1, constant_values=-np.inf)
    for y, x in np.ndindex(heatmap.shape):
        assert maxima[y, x] == (heatmap[y, x] == padded[y : y + 3, x : x + 3].max())


def test_a_trace_changes_no_weight_and_leaves_no_gradient(spec, images):
    method = method_of(spec())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    random = torch.get_rng_state()
    trace_image(method, images)
    assert all(value.equal(before[name]) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert torch.get_rng_state().equal(random)
    assert not method.head.network._forward_pre_hooks


def test_another_method_is_refused(tiny_spec, images):
    with pytest.raises(ValueError, match="only MIST for reconstruction can be traced"):
        trace_image(method_of(tiny_spec()), images)


def test_the_first_test_image_of_the_weights_is_stored(spec, tiny_dataset, tmp_path):
    weights, out = tmp_path / "weights.safetensors", tmp_path / "trace.npz"
    checkpoint.save_weights(weights, method_of(spec()))
    trace(spec().model_copy(update={"seed": 5}), tiny_dataset, weights, out, "cpu")
    first = out.read_bytes()
    trace(spec(), tiny_dataset, weights, out, "cpu")
    assert out.read_bytes() == first  # of the weights, whatever the seed
    (one, *_) = predict_split(
        method_of(spec()), load_split(tiny_dataset, "test")["images"][:1], 1, CPU
    )
    with np.load(out) as stored:
        np.testing.assert_allclose(stored["boxes"], one.boxes.numpy(), atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.npz", weights.name]


def test_the_command_writes_the_same_file(spec, tiny_dataset, tmp_path):
    weights, out = tmp_path / "weights.safetensors", tmp_path / "trace.npz"
    checkpoint.save_weights(weights, method_of(spec()))
    trace(spec(), tiny_dataset, weights, tmp_path / "wanted.npz", "cpu")
    words = {"spec": settings.canonical(spec()), "manifest": tiny_dataset / "manifest.json"}
    words |= {"weights": weights, "out": out, "device": "cpu"}
    options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
    assert cli.main(["trace", *options]) == 0
    assert out.read_bytes() == (tmp_path / "wanted.npz").read_bytes()
    assert cli.main(["trace", *options, "--code", "other"]) == 1  # edited since it was planned


def test_weights_of_another_network_are_refused(spec, tiny_dataset, tmp_path):
    weights, out = tmp_path / "weights.safetensors", tmp_path / "trace.npz"
    checkpoint.save_weights(weights, method_of(spec()))
    tensors = load_file(weights)
    tensors.pop(min(tensors))
    save_file(tensors, weights)
    words = f"^{weights}: not the weights of mist_bench.mist: "
    with pytest.raises(ValueError, match=words) as info:
        trace(spec(), tiny_dataset, weights, out, "cpu")
    assert "\n" not in str(info.value)
    assert not out.exists()
