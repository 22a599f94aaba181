import numpy as np
import pytest
from devkits import photo, write_image
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from mist_bench.datasets.photographs.annotations import UnusableError
from mist_bench.datasets.photographs.crops import (
    crop_boxes,
    crop_image,
    crop_side,
    draw_window,
    open_image,
    reason_to_drop,
)

RULES = {"max_instances": 2, "largest": 0.3, "longest": 2, "coverage": 0.3}


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], "no object"),
        ([(0, 0, 50, 48)], None),  # 2400 of 8000 px are .3
        ([(0, 0, 50, 48.1)], "large object"),
        ([(5, 5, 25, 45)], None),  # 20 x 40
        ([(5, 5, 25, 45.5)], "elongated object"),
        ([(5, 5, 45.5, 25)], "elongated object"),
        ([(5, 5, 25, 25), (30, 5, 32, 15)], "elongated object"),  # every object counts
        ([(0, 0, 90, 30)], "large object"),  # and elongated, but this is asked first
        ([(0, 0, 20, 20), (20, 0, 40, 20)], None),
        ([(0, 0, 20, 20)] * 3, "too many objects"),
        ([(0, 0, 20, 20)] * 2 + [(0, 0, 20, 41)], "elongated object"),
        # 200 px / .3 is a square of 25.8 px, and they span 90 px
        ([(0, 0, 10, 10), (80, 60, 90, 70)], "no square"),
    ],
)
def test_which_photographs_are_kept(boxes, expected):
    assert reason_to_drop(photo(*boxes), **RULES) == expected


def test_objects_farther_apart_than_the_photograph_is_high():
    boxes = [(0, 0, 25, 20), (25, 10, 50, 30)]  # a square of 57.7 px would hold both
    assert reason_to_drop(photo(*boxes, width=100, height=57), **RULES) is None
    assert reason_to_drop(photo(*boxes, width=100, height=49), **RULES) == "no square"


def test_side_of_a_crop():
    assert crop_side(photo((10, 10, 40, 40)), 0.25) == 60  # 900 / .25
    assert crop_side(photo((10, 10, 40, 40), (40, 10, 70, 40)), 0.5) == 60
    assert crop_side(photo((0, 0, 60, 50)), 0.25) == 80  # the photograph's height


def test_windows_are_uniform_among_those_with_all_objects():
    one = photo((10, 70, 40, 80), (30, 30, 60, 50))  # 300 + 600 px, a square of 60 px at .25
    rng = np.random.default_rng(0)
    windows = np.array([draw_window(one, 0.25, rng) for _ in range(2000)])
    assert (windows[:, 2] == 60).all()
    # left in [60 - 60, 10], top in [80 - 60, 100 and 80 px: 80 - 60]
    assert windows[:, 0].min() == pytest.approx(0, abs=0.05)
    assert windows[:, 0].max() == pytest.approx(10, abs=0.05)
    assert windows[:, 0].mean() == pytest.approx(5, abs=0.3)
    assert (windows[:, 1] == 20).all()


@st.composite
def photographs(draw):
    width, height = draw(st.integers(20, 700)), draw(st.integers(20, 700))
    boxes = []
    for _ in range(draw(st.integers(1, 2))):
        w, h = draw(st.floats(2, width)), draw(st.floats(2, height))
        x, y = draw(st.floats(0, 1)) * (width - w), draw(st.floats(0, 1)) * (height - h)
        boxes.append((x, y, min(x + w, width), min(y + h, height)))
    return photo(*boxes, width=width, height=height)


@given(photographs(), st.integers(0, 2**32), st.sampled_from([32, 224]))
def test_a_crop_lies_in_the_photograph_and_holds_its_objects(one, seed, side):
    assume(reason_to_drop(one, **RULES) is None)
    left, top, extent = window = draw_window(one, 0.3, np.random.default_rng(seed))
    assert left >= 0
    assert top >= 0
    assert left + extent <= one.width + 1e-9
    assert top + extent <= one.height + 1e-9
    boxes = crop_boxes(one, window, side)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert low.min() >= -0.5 - 1e-4
    assert high.max() <= side - 0.5 + 1e-4
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (each.box for each in one.instances)]
    covered = boxes[:, 2:].prod(1).sum() / side**2
    assert covered == pytest.approx(sum(areas) / extent**2, rel=1e-3)
    if extent < min(one.width, one.height):
        assert covered == pytest.approx(0.3, rel=1e-3)
    else:
        assert covered >= 0.3 - 1e-4


def test_boxes_of_a_crop():
    boxes = crop_boxes(photo((10, 12, 40, 52)), (5, 2, 60), 120)
    # twice as large: from 10, 20 to 70, 100 where the first pixel covers [0, 1]
    assert boxes.tolist() == [[39.5, 59.5, 60, 80]]
    assert boxes.dtype == np.float32


@pytest.mark.parametrize("side", [30, 120])
def test_a_box_is_where_the_object_went(side):
    image = np.zeros((80, 100, 3), dtype=np.uint8)
    image[12:52, 10:40] = 255
    window = (4, 2, 60)
    (box,) = crop_boxes(photo((10, 12, 40, 52)), window, side)
    crop = crop_image(Image.fromarray(image), window, side)
    assert crop.shape == (3, side, side)
    assert crop.dtype == np.uint8
    weights = crop[0] / crop[0].sum()
    y, x = np.mgrid[:side, :side]
    center = [(weights * x).sum(), (weights * y).sum()]
    assert center == pytest.approx(box[:2], abs=0.01)
    assert crop[0].sum() / 255 == pytest.approx(box[2] * box[3], rel=0.01)


@pytest.mark.parametrize(
    ("window", "side"), [((0, 0, 80), 80), ((3.3, 7.7, 51.9), 32), ((20.25, 4.5, 30.1), 77)]
)
def test_a_ramp_stays_a_ramp(window, side):
    y, x = np.mgrid[:80, :100]
    image = Image.fromarray(np.stack([2 * x, 3 * y, 0 * x], axis=-1).astype(np.uint8))
    crop = crop_image(image, window, side).astype(float)
    left, top, extent = window
    places = (np.arange(side) + 0.5) * extent / side - 0.5  # a pixel's center is at + .5
    inner = slice(2, -2)  # the photograph ends: no ramp there
    assert crop[0, 5, inner] == pytest.approx(2 * (left + places[inner]), abs=0.8)
    assert crop[1, inner, 5] == pytest.approx(3 * (top + places[inner]), abs=0.8)
    assert not crop[2].any()


def test_channels_first():
    image = Image.new("RGB", (9, 9), (1, 2, 3))
    assert crop_image(image, (0, 0, 9), 4)[:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "1"])
def test_every_photograph_becomes_rgb(tmp_path, mode):
    Image.new(mode, (40, 30)).save(tmp_path / "a.jpg", "JPEG")
    image = open_image(tmp_path / "a.jpg", (40, 30))
    assert image.mode == "RGB"
    assert image.size == (40, 30)


def test_a_png_is_read_and_a_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGBA", (40, 30)).save(tmp_path / "a.png", exif=exif)
    assert open_image(tmp_path / "a.png", (40, 30)).size == (40, 30)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


def other_format(path):
    Image.new("RGB", (40, 30)).save(path, "BMP")


@pytest.mark.parametrize(
    ("damage", "reason", "detail"),
    [
        (lambda path: path.unlink(), "missing image", "no such file"),
        (lambda path: path.write_bytes(b""), "broken image", "cannot identify"),
        (lambda path: path.write_bytes(b"<html>"), "broken image", "cannot identify"),
        (cut_off, "broken image", "truncated"),
        (other_format, "broken image", "cannot identify"),
        (lambda path: write_image(path, 30, 40), "image of another size", "30 x 40 px, annotated"),
    ],
)
def test_photographs_that_cannot_be_used(tmp_path, damage, reason, detail):
    path = tmp_path / "a.jpg"
    write_image(path)
    damage(path)
    with pytest.raises(UnusableError, match=detail) as caught:
        open_image(path, (40, 30))
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize("limit", [1000, 500])
def test_a_decompression_bomb_is_a_broken_image(tmp_path, monkeypatch, limit):
    write_image(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UnusableError, match="broken image: DecompressionBomb"):
        open_image(tmp_path / "a.jpg", (40, 30))
