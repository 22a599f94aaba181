import pytest
from devkits import list_voc, voc_text, write_voc

from mist_bench.datasets.photographs.annotations import Instance, Photograph
from mist_bench.datasets.photographs.voc import photo_id, read_folder, read_voc

CAR = ("car", 0, 11, 6, 30, 20)


def test_a_photograph(tmp_path):
    write_voc(tmp_path, "000005", CAR, ("aeroplane", 0, 1, 1, 40, 30))
    reading = read_voc(tmp_path, "VOC2007")
    # the first pixel is 1 and the last is part of the box: 20 px from 10 to 30
    assert reading.photographs == [
        Photograph(
            "VOC2007/000005",
            "VOCdevkit/VOC2007/JPEGImages/000005.jpg",
            40,
            30,
            (Instance(7, (10, 5, 30, 20)), Instance(1, (0, 0, 40, 30))),
        )
    ]
    assert not reading.problems
    assert reading.unlisted == 0


def test_difficult_objects_are_skipped_even_if_broken(tmp_path):
    write_voc(tmp_path, "a", ("dog", 1, 9, 9, 2, 2), CAR, ("no class", 1, 1, 1, 5, 5))
    (photo,) = read_voc(tmp_path, "VOC2007").photographs
    assert [each.label for each in photo.instances] == [7]
    assert photo.skipped == 2


def test_parts_of_an_object_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    text = voc_text(("person", 0, 11, 6, 30, 20)).replace("<object>", f"<object>{part}")
    write_voc(tmp_path, "a", text=text)
    (photo,) = read_voc(tmp_path, "VOC2007").photographs
    assert photo.instances == (Instance(15, (10, 5, 30, 20)),)


def test_without_difficult_and_with_fractions_of_pixels(tmp_path):
    text = voc_text(("cat", 0, 1.5, 2.25, 30, 20)).replace("<difficult>0</difficult>", "")
    write_voc(tmp_path, "a", text=text)
    assert read_voc(tmp_path, "VOC2007").photographs[0].instances[0].box == (0.5, 1.25, 30, 20)


@pytest.mark.parametrize("place", ["", "voc"])
def test_where_a_devkit_may_be(tmp_path, place):
    write_voc(tmp_path / place, "a", CAR)
    root = tmp_path / place
    for given_root in (tmp_path, root / "VOCdevkit"):
        (photo,) = read_voc(given_root, "VOC2007").photographs
        assert (given_root / photo.file).is_file()
    assert read_voc(tmp_path, "VOC2012") is None


def test_a_given_folder_is_read_whatever_lies_beside_it(tmp_path):
    write_voc(tmp_path, "inner", CAR)
    write_voc(tmp_path / "x", "outer", CAR)
    folder = (tmp_path / "x" / "VOCdevkit" / "VOC2007").rename(tmp_path / "VOC2007")
    (photo,) = read_folder(folder, folder).photographs
    assert (photo.id, photo.file) == ("VOC2007/outer", "JPEGImages/outer.jpg")
    (photo,) = read_voc(tmp_path, "VOC2007").photographs
    assert photo.id == "VOC2007/inner"


def test_only_listed_photographs_count_where_there_are_lists(tmp_path):
    for stem in ("a", "b", "c"):
        write_voc(tmp_path, stem, CAR)
    list_voc(tmp_path, "train", "a")
    list_voc(tmp_path, "trainval", "a", "b")
    list_voc(tmp_path, "car_train", "c  1")
    reading = read_voc(tmp_path, "VOC2007")
    assert [photo.id for photo in reading.photographs] == ["VOC2007/a", "VOC2007/b"]
    assert reading.unlisted == 1


def test_listed_but_not_annotated(tmp_path):
    write_voc(tmp_path, "a", CAR)
    list_voc(tmp_path, "val", "a", "000009", "../../../etc/passwd")
    reading = read_voc(tmp_path, "VOC2007")
    assert [photo.id for photo in reading.photographs] == ["VOC2007/a"]
    assert [(each.photo, each.reason) for each in reading.problems] == [
        ("VOC2007/../../../etc/passwd", "path leaves its folder"),
        ("VOC2007/000009", "missing annotation"),
    ]


@pytest.mark.parametrize(
    ("year", "stem", "expected"),
    [
        ("VOC2012", "2007_000027", "VOC2007/000027"),
        ("VOC2007", "000027", "VOC2007/000027"),
        ("VOC2012", "2010_001234", "VOC2010/001234"),
        ("VOC2007", "train_000001", "VOC2007/train_000001"),
        ("VOC2007", "2007_", "VOC2007/2007_"),
    ],
)
def test_copies_have_one_id(year, stem, expected):
    assert photo_id(year, stem) == expected


BOMB = '<!DOCTYPE a [<!ENTITY b "cc">]><annotation><filename>&b;</filename></annotation>'
SECRET = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("<annotation><filename>", "broken annotation", "ParseError: no element found"),
        ("\0\1", "broken annotation", "ParseError"),
        ('<?xml version="1.0" encoding="x-y"?><a/>', "broken annotation", "unknown encoding"),
        (BOMB, "broken annotation", "EntitiesForbidden"),
        (SECRET, "broken annotation", "EntitiesForbidden"),
        ("<annotation/>", "broken annotation", "the image has no file name"),
        (voc_text(CAR, name="../../etc/passwd"), "path leaves its folder", "'../../etc/passwd'"),
        (voc_text(CAR, width=""), "broken annotation", "the image's size is '' x '30'"),
        (voc_text(CAR, height=-3), "broken annotation", "size is '40' x '-3'"),
        (voc_text(("Car", 0, 1, 1, 9, 9)), "unknown class", "'Car' is not one of the twenty"),
        (voc_text(("background", 0, 1, 1, 9, 9)), "unknown class", "'background'"),
        (voc_text(("car", 0, 1, 1, 42, 9)), "box outside the image", "box 0 0 42 9 of 40 x 30"),
        (voc_text(("car", 0, 9, 1, 8, 9)), "empty box", "box 8 0 8 9"),
        (voc_text(("car", 0, "x", 1, 9, 9)), "broken annotation", "a box of four numbers"),
        (voc_text(CAR).replace("bndbox", "box"), "broken annotation", "a box of four numbers"),
    ],
)
def test_what_cannot_be_used_is_reported_and_the_rest_is_read(tmp_path, text, reason, detail):
    write_voc(tmp_path, "a", text=text)
    write_voc(tmp_path, "b", CAR)
    reading = read_voc(tmp_path, "VOC2007")
    assert [photo.id for photo in reading.photographs] == ["VOC2007/b"]
    (problem,) = reading.problems
    assert (problem.photo, problem.reason) == ("VOC2007/a", reason)
    assert problem.file == "VOCdevkit/VOC2007/Annotations/a.xml"
    assert detail in problem.detail
    assert "\n" not in problem.detail


def test_an_edge_that_rounding_put_outside_is_clipped(tmp_path):
    write_voc(tmp_path, "a", ("car", 0, 0, 1, 40.5, 31))
    assert read_voc(tmp_path, "VOC2007").photographs[0].instances[0].box == (0, 0, 40, 30)
