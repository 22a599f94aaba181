import pytest
from devkits import coco_data, write_coco

from mist_bench.datasets.photographs import coco
from mist_bench.datasets.photographs.annotations import Instance, Photograph
from mist_bench.datasets.photographs.coco import CATEGORIES, LABELS, read_coco
from mist_bench.datasets.photographs.voc import VOC_CLASSES

DOG = (1, 18, 1.5, 2.25, 10, 20.5)


def reasons(reading):
    return [(each.photo, each.reason) for each in reading.problems]


def test_a_photograph(tmp_path):
    write_coco(tmp_path, coco_data(DOG, (1, 13, 0, 0, 9, 9), (1, 1, 0, 0, 40, 30)))
    reading = read_coco(tmp_path)
    # a box is x, y, w, h; the stop sign (13) is no VOC class
    assert reading.photographs == [
        Photograph(
            "COCO/000000000001",
            "train2017/000000000001.jpg",
            40,
            30,
            (Instance(12, (1.5, 2.25, 11.5, 22.75)), Instance(15, (0, 0, 40, 30))),
        )
    ]
    assert not reading.problems


def test_categories_are_voc_classes_under_other_names():
    renamed = {
        "airplane": "aeroplane",
        "dining table": "diningtable",
        "motorcycle": "motorbike",
        "potted plant": "pottedplant",
        "couch": "sofa",
        "tv": "tvmonitor",
    }
    assert [renamed.get(name, name) for name in CATEGORIES] == list(VOC_CLASSES[1:])
    assert [LABELS[name] for name in CATEGORIES] == list(range(1, 21))


def test_the_name_of_a_category_decides_and_another_id_is_reported(tmp_path):
    categories = [{"id": key, "name": name} for name, key in CATEGORIES.items() if name != "tv"]
    categories[0]["id"] = 90
    data = coco_data((1, 90, 1, 1, 5, 5), (1, 5, 1, 1, 5, 5), categories=categories)
    write_coco(tmp_path, {**data, "annotations": data["annotations"][:1]})
    reading = read_coco(tmp_path)
    assert reading.photographs[0].instances == (Instance(1, (1, 1, 6, 6)),)
    assert [(each.file, each.reason, each.detail) for each in reading.problems] == [
        (
            "annotations/instances_train2017.json",
            "unexpected category",
            "'airplane' has id 90, in COCO 5",
        ),
        ("annotations/instances_train2017.json", "unexpected category", "no category is called tv"),
    ]


def test_crowds_are_skipped_even_if_broken(tmp_path):
    data = coco_data(DOG, (1, 1, 5, 5, 0, 0))
    data["annotations"][1]["iscrowd"] = 1
    write_coco(tmp_path, data)
    (photo,) = read_coco(tmp_path).photographs
    assert len(photo.instances) == 1
    assert photo.skipped == 1


def test_photographs_without_objects_are_read(tmp_path):
    write_coco(tmp_path, coco_data((1, 13, 0, 0, 0, 0), images=(1, 22)))
    photos = read_coco(tmp_path).photographs
    assert [(photo.id, photo.instances) for photo in photos] == [
        ("COCO/000000000001", ()),
        ("COCO/000000000022", ()),
    ]


def test_all_files_of_annotations_count(tmp_path):
    write_coco(tmp_path / "coco", coco_data(DOG))
    write_coco(tmp_path / "coco", coco_data((7, 17, 1, 1, 5, 5), images=(7,)), name="val2017")
    (tmp_path / "coco" / "annotations" / "captions_val2017.json").write_text("[]")
    reading = read_coco(tmp_path)
    assert [photo.file for photo in reading.photographs] == [
        "coco/train2017/000000000001.jpg",
        "coco/val2017/000000000007.jpg",
    ]
    assert len(read_coco(tmp_path / "coco").photographs) == 2


def test_images_in_a_folder_of_their_own(tmp_path):
    write_coco(tmp_path, coco_data(DOG))
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    (photo,) = read_coco(tmp_path).photographs
    assert photo.file == "images/train2017/000000000001.jpg"
    assert (tmp_path / photo.file).is_file()


def test_no_coco(tmp_path):
    (tmp_path / "annotations").mkdir()
    assert read_coco(tmp_path) is None


def test_annotations_without_their_folder_of_images(tmp_path):
    write_coco(tmp_path, coco_data(DOG), photographs=False)
    (tmp_path / "train2017").rmdir()
    reading = read_coco(tmp_path)
    assert not reading.photographs
    assert reasons(reading) == [("", "set not found")]
    assert "no folder train2017" in reading.problems[0].detail


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        ("[]", "a list 'categories' is expected"),
        ('{"categories": [], "images": {}}', "a list 'images' is expected"),
        ('{"categories": [], "images": []}', "a list 'annotations' is expected"),
    ],
)
def test_a_file_that_is_no_annotations(tmp_path, text, detail):
    write_coco(tmp_path, coco_data(DOG), name="val2017")
    (tmp_path / "train2017").mkdir()
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    reading = read_coco(tmp_path)
    assert [photo.id for photo in reading.photographs] == ["COCO/000000000001"]
    assert reasons(reading) == [("", "broken annotations")]
    assert reading.problems[0].file == "annotations/instances_train2017.json"
    assert detail in reading.problems[0].detail


@pytest.mark.parametrize(
    ("image", "object_", "reason", "detail"),
    [
        ({"file_name": "../../etc/passwd"}, {}, "path leaves its folder", "'../../etc/passwd'"),
        ({"file_name": None}, {}, "broken annotation", "no file name"),
        ({"width": 0}, {}, "broken annotation", "the image's size is 0 x 30"),
        ({}, {"bbox": [1, 1, 41, 5]}, "box outside the image", "box 1 1 42 6 of 40 x 30"),
        ({}, {"bbox": [1, 1, 0, 5]}, "empty box", "box 1 1 1 6"),
        ({}, {"bbox": [1, 1, 5]}, "broken annotation", "a bbox of four numbers"),
        ({}, {"bbox": {"x": 1}}, "broken annotation", "a bbox of four numbers"),
        ({}, {"bbox": [1, 1, float("nan"), 5]}, "broken annotation", "a box of four numbers"),
        ({}, {"bbox": None}, "broken annotation", "a bbox of four numbers"),
        ({}, {"category_id": 1000}, "unknown class", "category_id 1000"),
        ({}, {"category_id": [1]}, "unknown class", "category_id [1]"),
    ],
)
def test_what_cannot_be_used_is_reported_and_the_rest_is_read(
    tmp_path, image, object_, reason, detail
):
    data = coco_data(DOG, (2, 17, 1, 1, 5, 5), images=(1, 2))
    data["images"][0] |= image
    data["annotations"][0] |= object_
    write_coco(tmp_path, data, photographs=False)
    reading = read_coco(tmp_path)
    assert [photo.id for photo in reading.photographs] == ["COCO/000000000002"]
    assert reasons(reading) == [("COCO/000000000001", reason)]
    assert detail in reading.problems[0].detail


def test_entries_that_are_none(tmp_path):
    data = coco_data(DOG, (5, 17, 1, 1, 5, 5), (5, 13, 1, 1, 5, 5))
    data["images"] += [None, {"file_name": "b.jpg"}]
    data["annotations"] += [7, {"category_id": 1}, {"image_id": [1], "category_id": 1}]
    data["categories"] += ["x", {"id": 1.5, "name": "dog"}]
    write_coco(tmp_path, data, photographs=False)
    reading = read_coco(tmp_path)
    assert [photo.id for photo in reading.photographs] == ["COCO/000000000001"]
    assert [(each.photo, each.detail) for each in reading.problems] == [
        ("", "a category is 'x'"),
        ("", "a category is {'id': 1.5, 'name': 'dog'}"),
        ("", "3 objects name no image"),
        ("COCO/images[1]", "the image has no id"),
        ("COCO/images[2]", "the image has no id"),
        ("", "1 objects are of images that are not listed"),
    ]


def test_outlines_are_not_held_in_memory(tmp_path):
    data = coco_data(DOG, info={"year": 2017})
    plain = {key: data[key] for key in ("categories", "images", "annotations")}
    outlined = [each | {"segmentation": [[1, 2, 3, 4, 5, 6]]} for each in data["annotations"]]
    write_coco(tmp_path, {**data, "annotations": outlined})
    assert coco._load(tmp_path / "annotations/instances_train2017.json") == plain
