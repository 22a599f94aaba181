"""Drawings: one of its own for every class, looks that no two splits share, boxes as asked for."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.datasets.standin.emoji import (
    ATTRIBUTION,
    DESIGNS,
    DISTRACTORS,
    INK,
    OWNERS,
    SLOTS,
    box_of,
    designs,
    draw,
    draw_hue,
    glyph,
    rotate_hue,
)
from mist_bench.datasets.standin.specs import LookSpec

SPLITS = ("train", "val", "test")
HELD_OUT = {"aeroplane", "bird", "boat", "bottle", "car", "cat", "person", "train"}
LOOK = LookSpec(resolution=96, stretch=0.2, brightness=(-0.1, 0.1), contrast=(0.7, 1))
PLAIN = LookSpec(
    **{"resolution": 96, "rotation": 0, "stretch": 0, "aspect": (0.1, 10), "hue": 0},
    **{"tint": (0, 0), "line": 0, "brightness": (0, 0), "contrast": (1, 1), "shading": 0},
)
BICYCLE, SWAN, MONITOR = 0x1F6B2, 0x1F9A2, 0x1F5A5
seeds = st.integers(0, 2**32 - 1)


def all_designs():
    return sorted({code for splits in DESIGNS.values() for codes in splits for code in codes})


def test_source_is_named_with_its_license():
    assert ATTRIBUTION == "OpenMoji 17.0.0, CC BY-SA 4.0"


def test_every_class_of_voc_is_drawn_in_every_split():
    assert tuple(DESIGNS) == VOC_CLASSES[1:]
    for split, name in itertools.product(SPLITS, DESIGNS):
        assert designs(split, name)
        assert designs(split, name) == DESIGNS[name][SPLITS.index(split)]


@pytest.mark.parametrize("name", DESIGNS)
def test_train_shares_designs_in_the_declared_classes_only(name):
    train, val, test = (set(designs(split, name)) for split in SPLITS)
    if name in HELD_OUT:
        assert not train & (val | test)
    else:
        assert train == val == test


def test_a_drawing_stands_for_one_thing():
    codes = [code for splits in DESIGNS.values() for code in set().union(*splits)]
    assert len(set(codes)) == len(codes)
    assert len(set(DISTRACTORS)) == len(DISTRACTORS)
    assert not set(codes) & set(DISTRACTORS)


def test_all_drawings_differ_and_show_something():
    tiles = [glyph(code, 32) for code in (*all_designs(), *DISTRACTORS)]
    assert min(np.count_nonzero(np.asarray(tile)[..., 3] >= INK) for tile in tiles) > 60
    assert len({hashlib.sha256(tile.tobytes()).digest() for tile in tiles}) == len(tiles)


def test_drawings_are_in_color_and_cut_to_their_ink():
    duck = np.asarray(glyph(0x1F986, 96))  # green head, brown body
    red, green = duck[..., 0].astype(int), duck[..., 1].astype(int)
    assert (green > red + 50).any()
    assert (red > green + 30).any()
    ink = duck[..., 3] >= INK
    assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))


def test_box_holds_the_true_pixels_tightly():
    mask = np.zeros((6, 9), bool)
    mask[2, 3] = mask[4, 7] = True
    assert box_of(mask) == (3, 2, 8, 5)
    assert box_of(np.zeros((3, 3), bool)) is None


def test_an_empty_glyph_is_an_error():
    with pytest.raises(ValueError, match=r"U\+0020 is drawn empty: get a Pillow"):
        glyph(0x20, 32)


def test_a_drawing_too_small_for_ink_is_an_error():
    with pytest.raises(ValueError, match=r"U\+1F6B2 has no ink at 1 x 1 px"):
        draw(BICYCLE, np.random.default_rng(0), area=0.5, split="train", look=PLAIN)


def test_every_part_of_the_hue_range_has_one_owner():
    assert sorted(part for parts in OWNERS.values() for part in parts) == [0, 1, 2, 3, 4]
    assert SLOTS % 5 == 0


@given(seed=seeds, split=st.sampled_from(SPLITS))
def test_hues_stay_in_their_splits_slots(seed, split):
    hue = draw_hue(np.random.default_rng(seed), split)
    assert 0 <= hue < 1
    assert int(hue * 10) % 5 in {"train": (0, 2, 4), "val": (1,), "test": (3,)}[split]


def test_rotation_by_a_third_permutes_primaries_and_keeps_grays():
    np.testing.assert_allclose(rotate_hue(120) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotate_hue(120) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotate_hue(0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotate_hue(73) @ [0.4, 0.4, 0.4], [0.4, 0.4, 0.4], atol=1e-12)


@given(
    seed=seeds,
    code=st.sampled_from([*all_designs(), *DISTRACTORS]),
    side=st.floats(40, 110),
    split=st.sampled_from(SPLITS),
)
def test_the_box_has_the_area_and_a_ratio_in_range(seed, code, side, split):
    pixels = draw(code, np.random.default_rng(seed), area=side**2, split=split, look=LOOK)
    h, w, channels = pixels.shape
    assert channels == 4
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    # sides are rounded: off by at most (w + h) / 2 + 1/4; w + h <= 2.08 side up to ratio 1.7
    assert w * h == pytest.approx(side**2, abs=1.04 * side + 1)
    assert (w + 0.5) / (h - 0.5) >= 0.6
    assert (w - 0.5) / (h + 0.5) <= 1.7
    ink = pixels[..., 3] >= INK / 255
    for lines in (ink.any(axis=0), ink.any(axis=1)):
        assert np.flatnonzero(lines)[0] <= 3  # a thin end may fade when it is made smaller
        assert np.flatnonzero(lines[::-1])[0] <= 3


def test_equal_streams_give_equal_drawings():
    one, same, other = (
        draw(SWAN, np.random.default_rng(seed), area=900, split="val", look=LOOK)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or (one != other).any()


def test_without_variation_a_drawing_is_the_glyph_or_its_mirror_image():
    tile = glyph(SWAN, 96)
    area = tile.width * tile.height
    assert area > 96**2 / 2  # so that the largest rendering is used
    mirrored = set()
    for seed in range(8):
        pixels = draw(SWAN, np.random.default_rng(seed), area=area, split="test", look=PLAIN)
        for flip in (False, True):
            source = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else tile
            if np.allclose(pixels, np.asarray(source) / 255, atol=1e-6):
                mirrored.add(flip)
                break
        else:
            pytest.fail("neither the glyph nor its mirror image")
    assert mirrored == {False, True}


def plain_and(**changes):
    """Return one drawing of the gray monitor without variation, and one with ``changes``."""
    looks = PLAIN, PLAIN.model_copy(update=changes)
    return (
        draw(MONITOR, np.random.default_rng(5), area=2500, split="train", look=look)
        for look in looks
    )


def test_hue_leaves_gray_things_gray_and_tint_colors_them():
    before, after = plain_and(hue=90)
    np.testing.assert_allclose(after, before, atol=0.03)  # its grays are nearly gray
    before, after = plain_and(tint=(0.4, 0.4))
    ratio = after[..., :3].sum((0, 1)) / before[..., :3].sum((0, 1))
    assert ratio.max() == pytest.approx(1, abs=1e-5)  # one primary passes whole
    assert ratio.min() == pytest.approx(0.6, abs=1e-5)  # and one is reduced by the tint


def test_lines_become_lighter_and_white_stays_white():
    before, after = plain_and(line=0.5)
    black, white = (before[..., :3].max(2) < 0.01), (before[..., :3].min(2) > 0.99)
    assert black.any()
    assert white.any()
    assert 0 < after[black][:, :3].max() < 0.51
    np.testing.assert_allclose(after[white], before[white], atol=0.01)


def test_contrast_and_brightness_are_those_asked_for():
    before, after = plain_and(contrast=(0.5, 0.5), brightness=(0.1, 0.1))
    np.testing.assert_allclose(after[..., :3], 0.35 + 0.5 * before[..., :3], atol=1e-5)
    np.testing.assert_array_equal(after[..., 3], before[..., 3])


def test_shading_leaves_the_middle_and_is_bounded():
    before, after = plain_and(shading=0.3, contrast=(0.0, 0.0))
    factor = after[..., :3] / 0.5
    h, w, _ = before.shape
    middle = factor[h // 2 - 1 : h // 2 + 1, w // 2 - 1 : w // 2 + 1]
    np.testing.assert_allclose(middle, 1, atol=0.05)
    assert 0.01 < np.abs(factor - 1).max() <= 0.3 * np.sqrt(2)
