"""Pictures from drawings: what hides what, how they blend, and what the camera adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_bench.datasets.standin.compositing import Sprite, background, paint, photograph, stack
from mist_bench.datasets.standin.specs import CameraSpec

CLEAR = CameraSpec(shadow=(0, 0), softness=(2, 2), blur=(0, 0), noise=(0, 0), quality=(95, 95))


def square(side, left, top, color=(1, 0, 0), alpha=1.0):
    """Return a sprite of one color and opacity."""
    pixels = np.empty((side, side, 4), np.float32)
    pixels[..., :3], pixels[..., 3] = color, alpha
    return Sprite(pixels, left, top)


class Coin(np.random.Generator):
    """A generator whose coin always falls on the same side: 1 puts things over the objects."""

    def __init__(self, side):
        super().__init__(np.random.PCG64(0))
        self.side = side

    def random(self):
        return 0.75 if self.side else 0.25


def test_ink_is_where_alpha_is_at_least_a_half():
    pixels = np.zeros((1, 4, 4), np.float32)
    pixels[0, :, 3] = 0, 127 / 255, 128 / 255, 1
    assert Sprite(pixels, 0, 0).ink.tolist() == [[False, False, True, True]]


def test_a_thing_over_an_object_takes_its_ink():
    thing, other = square(4, 5, 0), square(4, 20, 0)
    size = {"width": 30, "height": 10, "min_visible": 0.5}
    under, over, (first, second) = stack([square(4, 2, 1), other], [thing], Coin(1), **size)
    assert (under, over) == ([], [thing])
    expected = np.zeros((10, 30), bool)
    expected[1:5, 2:6] = True
    expected[0:4, 5:9] = False
    np.testing.assert_array_equal(first, expected)
    assert np.count_nonzero(first) == 13  # 4 x 4 less a column of 3
    assert np.count_nonzero(second) == 16


@pytest.mark.parametrize(("min_visible", "covers"), [(0.5, True), (0.51, False)])
def test_no_more_is_hidden_than_allowed(min_visible, covers):
    hider = square(4, 4, 1)  # over half of the object
    size = {"width": 12, "height": 8, "min_visible": min_visible}
    under, over, (mask,) = stack([square(4, 2, 1)], [hider], Coin(1), **size)
    assert (len(under), len(over)) == ((0, 1) if covers else (1, 0))
    assert np.count_nonzero(mask) == (8 if covers else 16)


def test_the_coin_decides_and_a_thing_outside_hides_nothing():
    size = {"width": 12, "height": 8, "min_visible": 0.9}
    outside = square(3, -10, 50)
    under, over, (mask,) = stack([square(4, 2, 1)], [outside], Coin(1), **size)
    assert (under, over, np.count_nonzero(mask)) == ([], [outside], 16)
    under, over, _ = stack([square(4, 2, 1)], [outside], Coin(0), **size)
    assert (under, over) == ([outside], [])


@given(
    places=st.lists(st.tuples(st.integers(-6, 18), st.integers(-6, 14)), max_size=6),
    seed=st.integers(0, 99),
)
def test_visible_ink_is_what_a_painter_leaves(places, seed):
    objects = [square(5, 1, 1), square(5, 9, 6)]
    things = [square(4, left, top) for left, top in places]
    size = {"width": 16, "height": 12, "min_visible": 0.4}
    under, over, visible = stack(objects, things, np.random.default_rng(seed), **size)
    assert sorted(map(id, [*under, *over])) == sorted(map(id, things))
    top = np.full((12, 16), -1)
    for number, sprite in enumerate([*under, *objects, *over]):
        for y, x in np.ndindex(*sprite.ink.shape):
            if 0 <= sprite.top + y < 12 and 0 <= sprite.left + x < 16:
                top[sprite.top + y, sprite.left + x] = number
    for k, mask in enumerate(visible):
        np.testing.assert_array_equal(mask, top == len(under) + k)
        assert np.count_nonzero(mask) >= 0.4 * 25


def test_sprites_blend_by_alpha_and_are_cut_off_at_the_edge():
    canvas = np.full((4, 5, 3), 0.5, np.float32)
    sprites = [square(2, -1, 0, (1, 0, 0)), square(2, 3, 3, (0, 0, 1), 0.5), square(2, 9, 9)]
    paint(canvas, sprites, np.random.default_rng(0), CLEAR)
    expected = np.full((4, 5, 3), 0.5)
    expected[0:2, 0] = 1, 0, 0
    expected[3, 3:5] = 0.25, 0.25, 0.75
    np.testing.assert_allclose(canvas, expected, atol=1e-6)


def test_later_sprites_lie_over_earlier_ones():
    canvas = np.zeros((3, 3, 3), np.float32)
    sprites = [square(2, 0, 0, (1, 0, 0)), square(2, 1, 1, (0, 1, 0))]
    paint(canvas, sprites, np.random.default_rng(0), CLEAR)
    np.testing.assert_array_equal(canvas[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(canvas[1, 1], [0, 1, 0])


def test_a_shadow_darkens_near_the_sprite_by_its_opacity_at_most():
    canvas = np.ones((80, 80, 3), np.float32)
    dark = CLEAR.model_copy(update={"shadow": (0.4, 0.4)})
    paint(canvas, [square(20, 30, 30, (1, 1, 1))], np.random.default_rng(1), dark)
    assert canvas.max() == 1
    assert 0.6 - 1e-5 <= canvas.min() < 0.95
    darkened = np.argwhere(canvas[..., 0] < 0.99)
    # at most the offset (2 x 2 px) and the cut-off (3 x 2 px) away
    assert darkened.min() >= 30 - 10
    assert darkened.max() < 50 + 10
    assert canvas[:20].min() == 1


@given(width=st.integers(20, 61), height=st.integers(20, 61), seed=st.integers(0, 99))
def test_backgrounds_are_pictures_of_any_size(width, height, seed):
    one, same = (background(np.random.default_rng(seed), width, height, 3) for _ in range(2))
    assert one.shape == (height, width, 3)
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 1
    assert one.std() > 0.005
    np.testing.assert_array_equal(one, same)


def test_backgrounds_differ_in_color_and_shapes():
    means = [background(np.random.default_rng(k), 64, 64, 0).mean((0, 1)) for k in range(12)]
    assert np.std(means, axis=0).min() > 0.05
    plain, shaped = (background(np.random.default_rng(1), 64, 64, n) for n in (0, 5))
    assert (plain != shaped).any()


def test_a_clear_camera_changes_nothing_and_noise_has_its_deviation():
    canvas = np.full((100, 100, 3), 100 / 255, np.float32)
    clear = photograph(canvas, np.random.default_rng(0), CLEAR)
    assert (clear.dtype, clear.shape) == (np.uint8, (100, 100, 3))
    assert (clear == 100).all()
    grainy = CLEAR.model_copy(update={"noise": (6, 6)})
    image = photograph(canvas, np.random.default_rng(0), grainy).astype(float)
    assert image.std() == pytest.approx(6, rel=0.05)
    assert image.mean() == pytest.approx(100, abs=0.3)
    assert (image[..., 0] == image[..., 1]).all()


def test_the_lens_blurs():
    canvas = np.zeros((41, 41, 3), np.float32)
    canvas[:, 21:] = 1
    soft = CLEAR.model_copy(update={"blur": (2, 2)})
    row = photograph(canvas, np.random.default_rng(0), soft)[20, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert row[10] < 3
    assert 20 < row[19] < 110
    assert row[31] > 252
