import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_bench.datasets.photographs.annotations import (
    UnusableError,
    clip_box,
    image_size,
    inside,
    number,
)

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.floats())
)


@pytest.mark.parametrize(("value", "expected"), [(3, 3), ("4.5", 4.5), (" 6 ", 6), (-2.5, -2.5)])
def test_numbers(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize("value", [None, True, "", "x", "inf", math.nan, [1], 10**400, "1e999"])
def test_what_is_no_number(value):
    assert math.isnan(number(value))


def test_image_size():
    assert image_size("640", 480.0) == (640, 480)
    for width in (0, -3, "40.5", "1e999", "tall", 10**400):
        with pytest.raises(UnusableError, match="the image's size is"):
            image_size(width, 30)


@given(ANYTHING, ANYTHING)
def test_an_image_size_is_of_positive_whole_numbers(width, height):
    try:
        size = image_size(width, height)
    except UnusableError:
        size = (1, 1)
    assert min(size) >= 1
    assert {type(value) for value in size} == {int}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 40, 30), (0, 0, 40, 30)),
        ((-1, 2, 41, 29), (0, 2, 40, 29)),
        ((5.5, -0.01, 6.5, 30.01), (5.5, 0, 6.5, 30)),
    ],
)
def test_boxes_are_clipped(box, expected):
    assert clip_box(box, 40, 30) == expected


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((-1.01, 0, 5, 5), "box outside the image"),
        ((0, 0, 41.01, 5), "box outside the image"),
        ((0, 29, 5, 31.5), "box outside the image"),
        ((3, 3, 3, 9), "empty box"),
        ((9, 3, 3, 9), "empty box"),
        ((40.2, 3, 40.8, 9), "empty box"),
        ((math.nan, 3, 4, 9), "broken annotation"),
    ],
)
def test_boxes_that_cannot_be_used(box, reason):
    with pytest.raises(UnusableError) as caught:
        clip_box(box, 40, 30)
    assert caught.value.reason == reason


@given(st.tuples(*[st.floats(-3, 50) | st.floats()] * 4))
def test_a_box_is_inside_with_an_area_or_it_is_refused(box):
    try:
        x0, y0, x1, y1 = clip_box([number(value) for value in box], 40, 30)
    except UnusableError:
        # what is inside by a pixel and has an area is never refused
        x0, y0, x1, y1 = box
        assert not (0 <= x0 < x1 <= 40 and 0 <= y0 < y1 <= 30)
    else:
        assert 0 <= x0 < x1 <= 40
        assert 0 <= y0 < y1 <= 30


@pytest.mark.parametrize("name", ["000005.jpg", " 2007_000027.jpg\n", "sub/a.jpg", "..a.jpg"])
def test_names_below_a_folder(name):
    assert inside(name).as_posix() == name.strip()


ELSEWHERE = ["../a", "a/../../b", "/a", "\\a", "..\\a", "c:a"]
NOWHERE = [".", "..", "", " ", None, 5, "a\nb", "a\0b", "\ud800.jpg", "ä" * 128]


@pytest.mark.parametrize("name", [*ELSEWHERE, *NOWHERE])
def test_names_that_lead_elsewhere_or_nowhere(name):
    with pytest.raises(UnusableError):
        inside(name)
