import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.stats import qmc

from mist_bench.datasets.placement import jittered_grid, most_points, poisson_disk


def nearest(points):
    distance = np.sqrt(((points[:, :, None] - points[:, None]) ** 2).sum(-1))
    index = np.arange(points.shape[1])
    distance[:, index, index] = np.inf
    return distance.min(2)


def bounding_area(points):
    return (points.max(1) - points.min(1)).prod(-1)


@pytest.mark.parametrize(("side", "bound"), [(0, 1), (1, 4), (2, 9)])
def test_most_points_by_hand(side, bound):
    # a square of the distance's own size holds its corners, one twice as large 3 x 3 points
    assert most_points(1.0, side) == bound


@pytest.mark.parametrize("uneven", [False, True])
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 6),
    radius=st.floats(4, 20),
    low=st.integers(-5, 5),
)
@settings(max_examples=8, deadline=None)
def test_points_keep_distance_bounds_and_lattice(uneven, seed, count, radius, low):
    points = poisson_disk(default_rng(seed), 7, count, radius, low, low + 60, uneven=uneven)
    assert points.shape == (7, count, 2)
    if count:
        assert points.min() >= low
        assert points.max() <= low + 60
        np.testing.assert_array_equal(points, np.round(points))
    if count > 1:
        assert nearest(points).min() >= radius - 1e-9


@pytest.mark.parametrize("uneven", [False, True])
def test_same_seed_same_points_and_few_are_the_first_of_many(uneven):
    def draw(seed, n):
        return poisson_disk(default_rng(seed), n, 9, 16.0, 10, 70, uneven=uneven)

    many = draw(3, 1500)
    np.testing.assert_array_equal(many, draw(3, 1500))
    np.testing.assert_array_equal(many[:5], draw(3, 5))
    assert not np.array_equal(many[:5], draw(4, 5))


@pytest.mark.parametrize("count", [3, 9])
def test_like_scipys_full_space_and_random_choice(count):
    rng, full = default_rng(0), []
    while len(full) < 40:
        engine = qmc.PoissonDisk(2, radius=16, rng=rng, l_bounds=[10, 10], u_bounds=[70, 70])
        points = engine.fill_space()
        if len(points) >= count:
            full.append(points[rng.choice(len(points), count, replace=False)])
    theirs, ours = np.array(full), poisson_disk(default_rng(1), 1000, count, 16.0, 10, 70)
    assert nearest(ours).mean() == pytest.approx(nearest(theirs).mean(), rel=0.15)
    # points grown from one seed, the other reading of Bridson, would have 0.61 instead of 0.8
    assert bounding_area(ours).mean() / 3600 == pytest.approx(
        bounding_area(theirs).mean() / 3600, abs=0.1
    )
    assert ours.mean((0, 1)) == pytest.approx([40, 40], abs=1)


def test_uneven_points_crowd_around_a_focus_that_is_anywhere():
    even = poisson_disk(default_rng(0), 1000, 9, 14.0, 10, 70)
    uneven = poisson_disk(default_rng(0), 1000, 9, 14.0, 10, 70, uneven=True)
    assert bounding_area(uneven).mean() < 0.75 * bounding_area(even).mean()
    assert uneven.mean(1).std(0).min() > 1.5 * even.mean(1).std(0).max()
    assert uneven.mean((0, 1)) == pytest.approx([40, 40], abs=1.5)


@pytest.mark.parametrize(
    ("count", "radius", "message"),
    [
        (5, 60.0, r"5 points 60 px apart in \[10, 70\]² is impossible: at most 4 fit"),
        (4, 60.0, "random layouts hold so many; lower radius or margin"),
        (9, 0.0, "radius must be > 0"),
    ],
)
def test_what_does_not_fit_is_an_error(count, radius, message):
    with pytest.raises(ValueError, match=message):
        poisson_disk(default_rng(0), 2, count, radius, 10, 70)


def test_grid_without_noise_by_hand():
    first, second, third = 80 / 6 - 0.5, 39.5, 80 - 80 / 6 - 0.5
    points = jittered_grid(default_rng(0), 1, 4, 0.0, 0, 80, size=90)
    np.testing.assert_allclose(points, [[[22, 22], [67, 22], [22, 67], [67, 67]]])
    points = jittered_grid(default_rng(0), 2, 9, 0.0, 0, 80, size=80)
    row = [[x, y] for y in (first, second, third) for x in (first, second, third)]
    np.testing.assert_allclose(points, [row, row])


def test_grid_noise_has_the_stated_spread_and_is_clipped():
    points = jittered_grid(default_rng(0), 2000, 9, 3.0, -100, 200, size=80)
    noise = points - jittered_grid(default_rng(0), 1, 9, 0.0, -100, 200, size=80)
    assert noise.std() == pytest.approx(3.0, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    clipped = jittered_grid(default_rng(0), 2000, 9, 3.0, 9.5, 69.5, size=80)
    np.testing.assert_array_equal(clipped, np.clip(points, 9.5, 69.5))
