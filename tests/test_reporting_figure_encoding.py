"""Figures 3 and 8: patches by hand and against the sampler, and the files from made-up runs."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.ndimage import map_coordinates
from test_reporting_tables import config_of, make_config, put_run

from mist_bench.config.schema import Config
from mist_bench.datasets.files import Split, save_manifest, save_split
from mist_bench.models.autoencoder import BoxAutoencoder
from mist_bench.models.sampler import sample_patches
from mist_bench.reporting.figures.figure3_and_8_parts import (
    draw_example,
    encoded_squares,
    example,
    figure3,
    figure8,
    letter,
    sample_squares,
)
from mist_bench.reporting.figures.parts import CROSS, MissingResultError

SETS = {
    "mnist_easy_reconstruction": "mnist_easy",
    "mnist_hard_reconstruction": "mnist_hard",
    "mnist_uneven_reconstruction": "mnist_uneven",
}
FIGURES = pytest.mark.parametrize(
    ("draw", "experiment", "shown"),
    [
        (figure3, "mnist_hard_reconstruction", 2),
        (figure8, "mnist_uneven_reconstruction", 4),
    ],
)
N, K, SIDE, EXTENT = 5, 2, 9, 8  # a sample per pixel


def reconstruction_config(methods=("mist",)) -> Config:
    """A config of the reconstruction experiments on MNIST with the methods of ``make_config``."""
    base = make_config("made_up", seeds=[0]).model_dump(mode="json")
    setup = {"task": "reconstruction", "num_instances": K, "methods": list(methods)}
    data = base["datasets"]["mnist_hard"] | {"box_size": 5}
    parts = {
        "experiments": {name: setup | {"dataset": dataset} for name, dataset in SETS.items()},
        "datasets": dict.fromkeys(SETS.values(), data),
    }
    return config_of(**(base | parts))


def put_reconstruction(results, experiment, method="mist", shade=0.5):
    """Store test images of two squares, and a run that finds one and is 10 px off the other."""
    data = results / "datasets" / SETS[experiment]
    images = np.zeros((N, 1, 40, 40), np.uint8)
    images[:, 0, 8:13, 8:13], images[:, 0, 26:31, 26:31] = 255, 255
    boxes = np.tile(np.array([[10, 10, 5, 5], [28, 28, 5, 5]], np.float32), (N, 1, 1))
    arrays = {"images": images, "counts": np.full(N, K), "labels": np.zeros((N, K), np.int64)}
    if not data.exists():
        data.mkdir(parents=True)
        entry = save_split(data, "test", Split(arrays | {"boxes": boxes}, "squares"))
        save_manifest(data, {"source": "squares", "splits": {"test": entry}})
    put_run(results, method, 0, {"rmse": 0.1}, experiment=experiment)
    folder = results / "runs" / experiment / method / "seed0"
    spec = {"params": {"autoencoder": {"extent": EXTENT}}}
    (folder / "config.json").write_text(json.dumps(spec))
    found = boxes + np.array([[0, 0, 0, 0], [-10, 0, 0, 0]], np.float32)
    np.savez(
        folder / "predictions.npz",
        counts=np.full(N, K),
        boxes=found,
        scores=np.tile(np.array([2, 1], np.float32), (N, 1)),
        reconstructions=(shade * images / 255).astype(np.float16),
        patches=np.full((N, K, 1, SIDE, SIDE), shade, np.float16),
    )
    return folder


def texts(figure: Figure) -> str:
    """Return all that a figure says, in one string of single spaces."""
    words = [one.get_text() for one in figure.texts]
    for ax in figure.axes:
        words += [ax.get_title(), ax.get_xlabel(), ax.get_ylabel()]
        words += [one.get_text() for one in ax.texts]
    return " ".join(" ".join(words).split())


def test_a_patch_by_hand():
    image = np.arange(12.0).reshape(1, 3, 4)
    # the square spans columns 1 to 3 and rows 0 to 2: every pixel is a sample
    (patch,) = sample_squares(image, np.array([[2, 1, 2, 2]]), 3)
    assert patch.tolist() == [[[1, 2, 3], [5, 6, 7], [9, 10, 11]]]
    # half a pixel to the right: means of neighbors; beyond the image half of the last pixel
    (patch,) = sample_squares(image, np.array([[2.5, 1, 2, 2]]), 3)
    assert patch.tolist() == [[[1.5, 2.5, 1.5], [5.5, 6.5, 3.5], [9.5, 10.5, 5.5]]]


@pytest.mark.parametrize("size", [2, 7])
def test_patches_are_those_of_the_sampler_and_of_scipy(size):
    rng = np.random.default_rng(0)
    image = rng.random((2, 20, 30))
    squares = np.column_stack([rng.uniform(-3, 33, 6), rng.uniform(-3, 23, 6), *np.full((2, 6), 9)])
    found = sample_squares(image, squares, size)
    wanted = sample_patches(torch.from_numpy(image)[None], torch.from_numpy(squares)[None], size)
    np.testing.assert_allclose(found, wanted[0], atol=1e-12)
    steps = 9 * np.linspace(-0.5, 0.5, size)
    for patches, (x, y, _, _) in zip(found, squares, strict=True):
        places = np.meshgrid(y + steps, x + steps, indexing="ij")
        for patch, channel in zip(patches, image, strict=True):
            # bilinear with zeros beyond the image
            oracle = map_coordinates(channel, places, order=1, mode="grid-constant")
            np.testing.assert_allclose(patch, oracle, atol=1e-12)


@pytest.mark.parametrize("extent", [7.0, 6.0])
def test_squares_are_those_that_the_auto_encoder_is_given(extent):
    torch.manual_seed(0)
    boxes = torch.rand(1, 5, 4) * 20
    boxes[..., 2:] = 4.0
    seen = []
    whole = extent == 7.0
    head = BoxAutoencoder(torch.nn.Identity(), 8, extent, signed=False, whole_pixels=whole)
    head.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.rand(1, 1, 20, 20)
    head(image, boxes)
    squares = encoded_squares(boxes[0].numpy(), extent / 4, 8)
    np.testing.assert_allclose(sample_squares(image[0].numpy(), squares, 8), seen[0], atol=1e-5)


def test_an_example_by_hand():
    image = np.zeros((1, 1, 20, 20), np.uint8)
    image[0, 0, 10, 10] = 255
    truth = {
        "images": image,
        "counts": np.array([1]),
        "labels": np.array([[7]]),
        "boxes": np.array([[[10, 10, 4, 4]]], np.float32),
    }
    stored = {
        "counts": np.array([2]),  # of three that are stored
        "boxes": np.array([[[11, 10, 4, 4], [4, 4, 4, 4], [10, 10, 4, 4]]], np.float32),
        "scores": np.array([[3, 2, 1]], np.float32),
        "reconstructions": np.zeros((1, 1, 20, 20), np.float16),
        "patches": np.full((1, 3, 1, 5, 5), 0.5, np.float16),
    }
    one = example(0, truth, stored, 2.0)
    assert one.right.tolist() == [True, False]
    assert one.counted == "1 of 1 right"
    assert one.rmse == pytest.approx(1 / 20)  # one white pixel of 400 is missing
    assert len(one.before) == len(one.after) == 2
    # the square is 8 px wide: samples at 7, 9, 11, 13, 15 px, halfway beside the white pixel
    expected = np.zeros((5, 5))
    assert one.before[0].tolist() == expected.tolist()
    stored["boxes"][0, 0, 0] = 10
    expected[2, 2] = 1
    assert example(0, truth, stored, 2.0).before[0].tolist() == expected.tolist()


def test_letters_name_detections():
    assert [letter(k) for k in (0, 1, 8, 26)] == ["a", "b", "i", "A"]


def test_an_example_shows_truth_and_detections(tmp_path):
    put_reconstruction(tmp_path, "mnist_hard_reconstruction")
    figure = figure3(reconstruction_config(), tmp_path)
    (detections,) = (ax for ax in figure.axes[:2] if ax.lines)
    assert len(detections.lines) == 4  # two dashed, two solid
    assert [one.get_text() for one in detections.texts] == ["a", f"b{CROSS}"]


def test_unlettered_detections_have_a_cross_at_most(tmp_path):
    put_reconstruction(tmp_path, "mnist_uneven_reconstruction")
    figure = figure8(reconstruction_config(), tmp_path)
    assert [one.get_text() for one in figure.axes[1].texts] == ["", CROSS]


@FIGURES
def test_a_figure_says_what_it_shows(draw, experiment, shown, tmp_path):
    put_reconstruction(tmp_path, experiment)
    words = texts(draw(reconstruction_config(), tmp_path))
    assert f"Images: the first {shown} of the test set, numbered from 0." in words
    assert "Preset made_up; seed 0; training steps: MIST 3,000. Data: squares." in words
    assert words.count("1 of 2 right") == shown
    assert words.count("RMSE 0.088") == shown  # half of 50 white pixels of 1600
    assert f"Test image {shown - 1}" in words
    assert "ground truth" in [
        one.get_text() for one in draw(reconstruction_config(), tmp_path).legends[0].texts
    ]


@FIGURES
def test_what_is_missing_is_named(draw, experiment, shown, tmp_path):
    with pytest.raises(MissingResultError, match=f"{experiment}/mist/seed0 has no predictions"):
        draw(reconstruction_config(), tmp_path)
    with pytest.raises(MissingResultError, match=f"does not run mist in {experiment}"):
        draw(reconstruction_config(methods=["channelwise"]), tmp_path)
    with pytest.raises(MissingResultError, match=f"does not run mist in {experiment}"):
        draw(make_config(), tmp_path)
    folder = put_reconstruction(tmp_path, experiment)
    with np.load(folder / "predictions.npz") as stored:
        rest = {name: stored[name] for name in stored.files if name != "patches"}
    np.savez(folder / "predictions.npz", **rest)
    with pytest.raises(MissingResultError, match="mist/seed0 stores no patches"):
        draw(reconstruction_config(), tmp_path)


def test_patches_stand_below_their_letters(tmp_path):
    put_reconstruction(tmp_path, "mnist_hard_reconstruction", shade=0.25)
    figure = figure3(reconstruction_config(), tmp_path)
    before = [ax for ax in figure.axes if ax.get_title() in ("a", f"b{CROSS}")]
    assert [ax.get_title() for ax in before] == ["a", f"b{CROSS}"] * 2
    # the first detection is on its 5 px square: 5 x 5 of 9 x 9 samples are white
    assert before[0].get_images()[0].get_array().sum() == 25
    after = figure.axes[figure.axes.index(before[1]) + 1]
    assert after.get_ylabel() == "after"
    assert (after.get_images()[0].get_array() == 0.25).all()


def test_three_panels_are_input_detections_and_synthesis(tmp_path):
    axes = Figure().subplots(1, 3)
    truth = {
        "images": np.full((1, 1, 6, 6), 255, np.uint8),
        "counts": np.array([0]),
        "labels": np.zeros((1, 0), np.int64),
        "boxes": np.zeros((1, 0, 4), np.float32),
    }
    stored = {
        "counts": np.array([0]),
        "boxes": np.zeros((1, 0, 4), np.float32),
        "scores": np.zeros((1, 0), np.float32),
        "reconstructions": np.full((1, 1, 6, 6), 0.5, np.float16),
        "patches": np.zeros((1, 0, 1, 4, 4), np.float16),
    }
    draw_example(axes, example(0, truth, stored, 1.0), lettered=True)
    shown = [ax.get_images()[0].get_array().mean() for ax in axes]
    assert shown == [1, 1, 0.5]
