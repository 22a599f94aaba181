import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from mist_bench.config.schema import DatasetSpec
from mist_bench.datasets.build import build_dataset
from mist_bench.datasets.files import check_arrays, load_split
from mist_bench.datasets.gabor import (
    gabor_kernel,
    make_split,
    standard_deviation,
    synthesize,
    to_bytes,
)

A, F0 = 0.08, 1 / 12


def split(size=20, name="train", seed=0, **changes):
    return make_split(name, size, default_rng(seed), **changes).arrays


def noise_of(centers, heights, angles, counts, canvas=80, a=A, f0=F0):
    arrays = (np.array(one, float) for one in (centers, heights, angles))
    return synthesize(*arrays, np.array(counts), canvas, bandwidth=a, frequency=f0)


@pytest.mark.parametrize(
    ("x", "y", "orientation", "expected"),
    [
        (0, 0, 30, 1),
        (5, 0, 0, -np.exp(-np.pi / 4)),  # half a wave and half of 1 / a away
        (0, 5, 0, np.exp(-np.pi / 4)),  # along the stripe
        (0, 5, 90, -np.exp(-np.pi / 4)),
        (10, 0, 60, -np.exp(-np.pi)),  # the projection on the wave is half as long
        (3, -4, 0, np.cos(0.6 * np.pi) * np.exp(-np.pi / 4)),
    ],
)
def test_kernel_by_hand(x, y, orientation, expected):
    value = gabor_kernel(x, y, bandwidth=0.1, frequency=0.1, orientation=orientation)
    assert value == pytest.approx(expected)


def test_orientations_turn_from_x_to_y_downward():
    # the wave runs to the lower right, hence stripes run to the upper right
    kernel = {"bandwidth": 0.01, "frequency": 0.1, "orientation": 45}
    assert gabor_kernel(3, -3, **kernel) > 0.98
    assert gabor_kernel(3.53, 3.53, **kernel) < -0.95


def test_synthesis_equals_a_sum_of_kernels():
    rng = default_rng(0)
    counts = np.array([3, 0, 5])
    centers, heights = rng.uniform(-5, 45, (8, 2)), rng.choice([-1.0, 1.0], 8)
    angles = rng.uniform(0, 180, 8)
    y, x = np.mgrid[:40, :40]
    expected = np.zeros((3, 40, 40))
    for i, (cx, cy) in enumerate(centers):
        kernel = {"bandwidth": A, "frequency": F0, "orientation": angles[i]}
        expected[0 if i < 3 else 2] += heights[i] * gabor_kernel(x - cx, y - cy, **kernel)
    found = noise_of(centers, heights, angles, counts, 40)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_variance_of_the_noise_is_that_of_the_formula():
    # only the middle: near the edge, fewer kernels overlap
    for a, f0 in ((0.08, 1 / 12), (0.08, 0.02)):
        rng, draws, side, expected_count = default_rng(1), 2000, 80, 12
        counts = rng.poisson(expected_count, draws)
        n = counts.sum()
        centers = rng.uniform(-0.5, side - 0.5, (n, 2))
        heights, angles = rng.choice([-1, 1], n), rng.choice([0, 45, 90, 135], n)
        middle = noise_of(centers, heights, angles, counts, side, a, f0)[:, 30:50, 30:50]
        variance = standard_deviation(expected_count / side**2, a, f0) ** 2
        assert middle.astype(float).var() == pytest.approx(variance, rel=0.1)


def test_standard_deviation_by_hand():
    # without a wave, g^2 is a Gaussian of integral 1 / (2 a^2)
    assert standard_deviation(0.02, 0.1, 0.0) == pytest.approx(1.0)
    # with a fast one, cos^2 is one half on average
    assert standard_deviation(0.02, 0.1, 1.0) == pytest.approx(np.sqrt(0.5))


def test_counts_are_poisson():
    counts = split(size=3000, canvas=16, margin=2, expected_count=4.5)["counts"]
    assert counts.mean() == pytest.approx(4.5, abs=4 * np.sqrt(4.5 / 3000))
    seen = np.bincount(np.minimum(counts, 10), minlength=11)
    wanted = stats.poisson.pmf(np.arange(11), 4.5) * 3000
    wanted[10] = 3000 - wanted[:10].sum()
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


def test_positions_are_uniform_within_the_margin():
    arrays = split(size=600, canvas=40, margin=6)
    valid = np.arange(arrays["labels"].shape[1]) < arrays["counts"][:, None]
    boxes = arrays["boxes"][valid]
    assert (boxes[:, 2:] == 24).all()
    for axis in boxes[:, :2].T:
        assert stats.kstest(axis, stats.uniform(5.5, 28).cdf).pvalue > 1e-3
    assert (boxes[:, :2] % 1 > 0).mean() > 0.99  # not at whole pixels


def test_an_impulse_is_white_at_its_box_and_stripes_follow_its_orientation():
    arrays = split(size=40, expected_count=1, orientations=[90])
    (alone,) = np.nonzero(arrays["counts"] == 1)
    assert len(alone) > 5
    for i in alone:
        x, y = np.floor(arrays["boxes"][i, 0, :2] + 0.5).astype(int)
        image = arrays["images"][i, 0].astype(int)
        assert image[y, x] == image.max() == 255
        below = image[min(y + 6, 79), x] if y < 40 else image[max(y - 6, 0), x]
        assert below < 100 < 128 <= image[y, x + 6 if x < 40 else x - 6]


def test_signs_make_half_of_the_impulses_negative_at_the_same_places():
    blobs = {"size": 200, "frequency": 0, "white": 9}
    positive, signed = split(**blobs), split(**blobs, weights="signs")
    np.testing.assert_array_equal(positive["boxes"], signed["boxes"])
    assert positive["images"].min() == 128  # gray where there is nothing
    darker, brighter = (signed["images"] < 112).mean(), (signed["images"] > 143).mean()
    assert darker == pytest.approx(brighter, rel=0.1)


def test_pixels_by_hand():
    noise = np.array([-3, -2, -1, 0, 1, 1.9999, 5], np.float32)
    assert to_bytes(noise, 2.0).tolist() == [0, 0, 64, 128, 191, 255, 255]


def test_arrays_are_a_valid_split_without_classes():
    arrays = split(size=50, expected_count=1)
    check_arrays(arrays, "gabor")
    assert arrays["counts"].min() == 0
    assert arrays["images"].shape == (50, 1, 80, 80)
    empty = arrays["images"][arrays["counts"] == 0]
    assert (empty == 128).all()
    assert set(np.unique(arrays["labels"])) == {-1, 0}


def test_no_images():
    assert split(size=0)["images"].shape == (0, 1, 80, 80)


def test_the_same_seed_gives_the_same_arrays():
    one, two, other = split(), split(name="val"), split(seed=1)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])
    assert not np.array_equal(one["images"], other["images"])


def test_purposes_have_their_own_streams():
    one, other = split(), split(orientations=[0], white=9, box_size=12)
    np.testing.assert_array_equal(one["boxes"][..., :2], other["boxes"][..., :2])


def test_a_set_without_classes_is_built_and_read(tmp_path):
    spec = DatasetSpec(
        name="gabor",
        preset="smoke",
        module="mist_bench.datasets.gabor",
        image_size=(1, 80, 80),
        num_classes=0,
        box_size=24,
        sizes={"train": 3, "val": 2, "test": 4},
        seed=0,
    )
    build_dataset(spec, tmp_path / "gabor")
    splits = [load_split(tmp_path / "gabor", name) for name in ("train", "val", "test")]
    assert [len(one["images"]) for one in splits] == [3, 2, 4]
    assert not np.array_equal(splits[0]["images"][0], splits[1]["images"][0])


def test_a_margin_that_leaves_no_room():
    with pytest.raises(ValueError, match="margin must be below 40 px, half the canvas, got 40"):
        split(margin=40)
