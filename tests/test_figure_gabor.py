import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.random import default_rng
from test_reporting_tables import config_of, make_config, put_run

from mist_bench.config.schema import Config
from mist_bench.datasets.files import save_manifest, save_split
from mist_bench.datasets.gabor import gabor_kernel, make_split
from mist_bench.evaluation.matching import stored_scene
from mist_bench.reporting.figures.figure4_gabor import (
    figure4,
    found_by_distance,
    found_words,
    learned_kernels,
    true_kernels,
)
from mist_bench.reporting.figures.parts import RIGHT, TRUTH, WRONG, MissingResultError

EXPERIMENT, K, EXTENT, SIDE = "gabor_reconstruction", 3, 14, 15
PARAMS = {
    "canvas": 40,
    "expected_count": 3,
    "margin": 8,
    "bandwidth": 0.1,
    "frequency": 0.1,
    "orientations": [0, 90],
    "weights": "positive",
    "white": 3,
    "box_size": 16,
}


@pytest.fixture
def config() -> Config:
    base = make_config("made_up", seeds=[0]).model_dump(mode="json")
    setup = {"task": "reconstruction", "dataset": "gabor", "num_instances": K, "methods": ["mist"]}
    data = base["datasets"]["mnist_hard"] | {"module": "mist_bench.datasets.gabor"}
    data |= {"box_size": 16, "params": PARAMS, "num_classes": 0}
    parts = {"experiments": {EXPERIMENT: setup}, "datasets": {"gabor": data}}
    return config_of(**(base | parts))


@pytest.fixture
def results(tmp_path):
    """Six images; detections lie 1 px beside the impulses, the last of each image 10 px.

    Every patch is the kernel of the orientation that its detection's number asks for.
    """
    folder = tmp_path / "cpu"
    data = folder / "datasets" / "gabor"
    data.mkdir(parents=True)
    split = make_split("test", 6, default_rng(3), **PARAMS)
    save_manifest(data, {"source": "by hand", "splits": {"test": save_split(data, "test", split)}})
    arrays = split.arrays
    boxes = np.full((6, K, 4), 16, np.float32)
    boxes[..., :2] = 0
    for i, n in enumerate(arrays["counts"]):
        kept = min(n, K)
        boxes[i, :kept, :2] = arrays["boxes"][i, :kept, :2] + [1, 0]
    boxes[:, K - 1, 1] += 10
    put_run(folder, "mist", 0, {"rmse": 0.1}, experiment=EXPERIMENT)
    run = folder / "runs" / EXPERIMENT / "mist" / "seed0"
    (run / "config.json").write_text(json.dumps({"params": {"autoencoder": {"extent": EXTENT}}}))
    kernels = true_kernels(PARAMS, EXTENT, SIDE)
    patches = np.broadcast_to(kernels[[0, 1, 0], None], (6, K, 1, SIDE, SIDE))
    np.savez(
        run / "predictions.npz",
        counts=np.full(6, K),
        boxes=boxes,
        scores=np.ones((6, K), np.float32),
        reconstructions=np.full((6, 1, 40, 40), 0.5, np.float16),
        patches=patches.astype(np.float16),
    )
    return folder


def scenes_of(truth, stored):
    return [stored_scene(stored, truth, i) for i in range(len(truth["counts"]))]


def words(figure: Figure) -> list[str]:
    """Return all texts of a figure."""
    axes = [t for ax in figure.axes for t in (ax.get_title(), ax.get_xlabel(), ax.get_ylabel())]
    return axes + [text.get_text() for text in figure.texts]


def test_true_kernels_are_what_images_show():
    kernels = true_kernels(PARAMS, EXTENT, SIDE)  # a sample per pixel
    one = make_split(
        "test", 30, default_rng(0), **PARAMS | {"expected_count": 1, "orientations": [90]}
    ).arrays
    i = int(np.flatnonzero(one["counts"] == 1)[0])
    # the density, hence the contrast, is another
    scale = np.sqrt(1 / PARAMS["expected_count"])
    x, y = one["boxes"][i, 0, :2]
    rows, columns = np.mgrid[:40, :40]
    shown = {"bandwidth": 0.1, "frequency": 0.1, "orientation": 90}
    limit = gabor_kernel(0, 7, **shown) / kernels[1, 14, 7] * scale
    expected = 0.5 + gabor_kernel(columns - x, rows - y, **shown) / (2 * limit)
    np.testing.assert_allclose(one["images"][i, 0] / 255, np.clip(expected, 0, 1), atol=0.003)


def test_learned_kernels_are_means_of_right_patches_by_likeness():
    true = np.zeros((3, 2, 2))
    true[0, 0, 0], true[1, 1, 1], true[2, 0, 1] = 1, 5, 1
    truth = {
        "counts": np.array([2, 0]),
        "labels": np.array([[0, 0], [-1, -1]]),
        "boxes": np.array([[[10, 10, 16, 16], [30, 30, 16, 16]], np.zeros((2, 4))], np.float32),
    }
    stored = {
        "counts": np.array([3, 1]),
        "scores": np.ones((2, 3)),
        "boxes": np.array([[[11, 10, 9, 9], [30, 31, 9, 9], [30, 29, 9, 9]]] * 2, np.float32),
    }
    stored["boxes"][0, 2, 1] = 20  # near no impulse
    patches = np.zeros((2, 3, 1, 2, 2), np.float16)
    patches[0, 0, 0] = [[1, 0], [0, 0.5]]
    patches[0, 1, 0] = [[0.5, 0.25], [0, 0]]
    patches[0, 2] = patches[1] = 7
    learned, likeness = learned_kernels(scenes_of(truth, stored), patches, true)
    # cosines 1 / |(1, .5)| and .5 / |(.5, .25)|
    np.testing.assert_allclose(likeness, [2 / np.sqrt(5), np.nan, np.nan])
    np.testing.assert_allclose(learned[0], [[0.75, 0.125], [0, 0.25]])
    assert not learned[1:].any()


def test_found_impulses_are_counted_by_the_distance_of_the_nearest_other():
    places = [[[10, 10], [14, 10], [30, 10], [30, 16]], [[50, 50], [0, 0], [0, 0], [0, 0]]]
    counts = np.array([4, 1])
    side = np.full((2, 4, 2), 16)
    truth = {
        "counts": counts,
        "labels": np.where(np.arange(4) < counts[:, None], 0, -1),
        "boxes": np.concatenate([places, side], axis=2).astype(np.float32),
    }
    stored = {"counts": np.array([3, 1]), "scores": np.ones((2, 3)), "boxes": truth["boxes"][:, :3]}
    scenes = scenes_of(truth, stored)  # all but the fourth impulse are found
    assert found_by_distance(scenes, (4, 6)) == [(0, 0), (2, 2), (2, 3)]  # 4 is not below 4
    assert found_by_distance(scenes, (5, 10)) == [(2, 2), (1, 2), (1, 1)]
    assert found_words(scenes, 10) == (
        " (test set: 80% of 5 impulses found; 100% of those less than 5 px from another, "
        "50% of those up to 10 px, 100% of those farther)"
    )


def test_no_impulse_at_all_gets_no_words():
    truth = {"counts": np.zeros(1, int), "labels": np.empty((1, 0)), "boxes": np.empty((1, 0, 4))}
    stored = {"counts": [1], "scores": np.ones((1, 1)), "boxes": np.ones((1, 1, 4))}
    assert found_words(scenes_of(truth, stored), 12) == ""


def test_figure_shows_the_first_image_whose_impulses_are_nearest_to_k(config, results):
    with np.load(results / "datasets" / "gabor" / "test.npz") as data:
        counts = data["counts"]
    i = int(np.flatnonzero(counts == K)[0])
    figure = figure4(config, results)
    said = words(figure)
    assert f"{K - 1} of {K} impulses found" in said
    caption = " ".join(said[-1].split())
    assert f"test image {i} (from 0)" in caption
    assert "seed 0; training steps: MIST 3,000. Data: by hand." in caption
    assert "at most 2 px from an impulse" in caption
    assert "impulses found; " in caption


def test_marks_lie_at_right_and_wrong_detections_and_missed_impulses(config, results):
    with (
        np.load(results / "datasets" / "gabor" / "test.npz") as data,
        np.load(results / "runs" / EXPERIMENT / "mist" / "seed0" / "predictions.npz") as stored,
    ):
        i = int(np.flatnonzero(data["counts"] == K)[0])
        impulses, found = data["boxes"][i, :, :2], stored["boxes"][i, :, :2]
    right, wrong, missed = figure4(config, results).axes[1].lines
    assert (right.get_color(), wrong.get_color()) == (RIGHT, WRONG)
    assert missed.get_markeredgecolor() == TRUTH
    np.testing.assert_allclose(sorted(right.get_xdata()), sorted(found[: K - 1, 0]))
    np.testing.assert_allclose(wrong.get_xydata(), found[K - 1 :])
    np.testing.assert_allclose(missed.get_xydata(), impulses[K - 1 : K])


def test_learned_kernels_stand_below_the_true_ones_with_their_likeness(config, results):
    figure = figure4(config, results)
    kernels = figure.axes[3:]
    assert [ax.get_title() for ax in kernels] == ["0°", "90°", "", ""]
    assert [ax.get_xlabel() for ax in kernels] == ["", "", "1.00", "1.00"]
    for upper, lower in zip(kernels[:2], kernels[2:], strict=True):
        one, two = upper.images[0].get_array(), lower.images[0].get_array()
        np.testing.assert_allclose(one, two, atol=1e-3)
        assert one[7, 7] == one.max() > 0.9


def test_an_orientation_without_a_right_patch_says_so(config, results):
    path = results / "runs" / EXPERIMENT / "mist" / "seed0" / "predictions.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["patches"] = np.repeat(arrays["patches"][:, :1], K, 1)
    np.savez(path, **arrays)
    assert figure4(config, results).axes[-1].get_xlabel() == "none found"


@pytest.mark.parametrize("name", ["patches", "reconstructions"])
def test_a_run_without_an_array_is_named(config, results, name):
    path = results / "runs" / EXPERIMENT / "mist" / "seed0" / "predictions.npz"
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files if key != name}
    np.savez(path, **arrays)
    message = f"{EXPERIMENT}/mist/seed0 stores no {name}"
    with pytest.raises(MissingResultError, match=re.escape(message)):
        figure4(config, results)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("predictions.npz", "mist/seed0 has no predictions.npz"),
        ("config.json", "mist/seed0/config.json names no extent"),
    ],
)
def test_a_missing_file_is_named(config, results, file, message):
    (results / "runs" / EXPERIMENT / "mist" / "seed0" / file).unlink()
    with pytest.raises(MissingResultError, match=message):
        figure4(config, results)


def test_a_config_without_the_experiment_is_named(results):
    message = f"the config does not run mist in {EXPERIMENT}"
    with pytest.raises(MissingResultError, match=message):
        figure4(make_config(seeds=[0]), results)
