import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from devkits import PARAMS, coco_data, photo, write_coco, write_image, write_voc

from mist_bench.datasets.files import check_arrays
from mist_bench.datasets.photographs import report as pascal_coco_report
from mist_bench.datasets.photographs.pascal_coco import Fractions, deal_out, make_split

COUNT = 30
SPLITS = ("train", "val", "test")
ALL_TRAIN = Fractions(train=1, val=0, test=0)


def make(root, split="train", size=100, seed=0, **changes):
    params = {**PARAMS, "root": str(root), **changes}
    return make_split(split, size, np.random.default_rng(seed), **params)


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def counts(made, split="train"):
    rows = table(made.files[f"{split}_counts.csv"])
    return {row["step"]: int(row["images"]) for row in rows}


def ids(made, split="train"):
    return [each["id"] for each in json.loads(made.files[f"{split}_index.json"])]


@pytest.fixture(scope="module")
def pets(tmp_path_factory) -> Path:
    """COCO with 30 photographs of a dog each; to be read only."""
    root = tmp_path_factory.mktemp("pets")
    numbers = range(1, COUNT + 1)
    write_coco(root, coco_data(*[(i, 18, i % 20, 8, 10, 9) for i in numbers], images=numbers))
    return root


def test_arrays(tmp_path):
    write_voc(tmp_path, "000001", ("cow", 0, 11, 6, 20, 15), ("tvmonitor", 0, 21, 6, 30, 15))
    write_voc(tmp_path, "000002", ("cow", 0, 11, 6, 20, 15), ("bird", 1, 21, 6, 30, 15))
    made = make(tmp_path, fractions=ALL_TRAIN)
    check_arrays(made.arrays, "made")
    assert made.arrays["images"].shape == (2, 3, 16, 16)
    assert made.arrays["images"].dtype == np.uint8
    first = ids(made).index("VOC2007/000001")
    assert made.arrays["counts"][[first, 1 - first]].tolist() == [2, 1]
    assert made.arrays["labels"][[first, 1 - first]].tolist() == [[10, 20], [10, -1]]
    # 200 px are a quarter of 28.28 px squared, 100 px of 20 px squared
    scales = np.array([16 / np.sqrt(800), 16 / 20])
    sizes = made.arrays["boxes"][[first, 1 - first], 0, 2:]
    assert sizes == pytest.approx(10 * scales[:, None] * np.ones(2))
    index = json.loads(made.files["train_index.json"])
    for entry, image in zip(index, made.arrays["images"], strict=True):
        left, top, extent = entry["crop"]
        # write_image tells each pixel's place
        assert image[0].mean() / 4 == pytest.approx(left + extent / 2 - 0.5, abs=0.5)
        assert image[1].mean() / 4 == pytest.approx(top + extent / 2 - 0.5, abs=0.5)
    assert index[first]["labels"] == ["cow", "tvmonitor"]
    assert index[first]["file"] == "VOCdevkit/VOC2007/JPEGImages/000001.jpg"
    assert index[first]["boxes"] == pytest.approx(made.arrays["boxes"][first], abs=1e-4)


def test_splits_are_parts_that_a_hash_of_the_id_decides(pets):
    made = {split: ids(make(pets, split), split) for split in SPLITS}
    everything = [name for names in made.values() for name in names]
    assert sorted(everything) == [f"COCO/{i:012d}" for i in range(1, COUNT + 1)]
    for split, (low, high) in {"train": (0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1)}.items():
        digests = [hashlib.sha256(f"0 {name}".encode()).hexdigest() for name in made[split]]
        places = [int(digest[-12:], 16) / 16**12 for digest in digests]
        assert places == sorted(places)
        assert all(low <= place < high for place in places)
    other = make(pets, "test", split_seed=1)
    assert ids(other, "test") != made["test"]


def test_fractions_of_many():
    photos = [photo(id=f"COCO/{i}") for i in range(9780)]
    parts = deal_out(photos, 0, Fractions())
    # binomial: 7824 +- 40 and 978 +- 30 each
    assert [len(parts[split]) for split in SPLITS] == pytest.approx([7824, 978, 978], abs=120)
    assert sum(map(len, parts.values())) == 9780


def test_other_photographs_do_not_matter(pets, tmp_path):
    numbers = range(1, COUNT + 1, 2)
    data = coco_data(*[(i, 18, i % 20, 8, 10, 9) for i in numbers], images=reversed(numbers))
    write_coco(tmp_path, data)
    whole, half = make(pets), make(tmp_path)
    assert set(ids(half)) < set(ids(whole))
    chosen = [ids(whole).index(name) for name in ids(half)]
    assert chosen == sorted(chosen)
    for name, array in half.arrays.items():
        assert (array == whole.arrays[name][chosen]).all()


def test_size_takes_the_first(pets):
    whole, few = make(pets), make(pets, size=5)
    assert ids(few) == ids(whole)[:5]
    assert (few.arrays["images"] == whole.arrays["images"][:5]).all()
    assert counts(few)["train: more than asked for"] == len(ids(whole)) - 5
    assert counts(few)["train: used"] == 5


def test_one_seed_one_result(pets):
    first, again, other = make(pets), make(pets), make(pets, seed=1)
    assert first.files == again.files
    assert (first.arrays["images"] == again.arrays["images"]).all()
    assert ids(first) == ids(other)
    assert not (first.arrays["boxes"] == other.arrays["boxes"]).all()


def test_every_photograph_is_accounted_for(tmp_path):
    voc = {
        "000001": [("cow", 0, 11, 6, 20, 15)],
        "000002": [("cow", 1, 11, 6, 20, 15)],
        "000003": [("cow", 0, 1, 1, 20, 20)],
        "000004": [("cow", 0, 1, 1, 10, 21)],
        "000005": [("cow", 0, 11, 6, 20, 15)] * 3,
        "000006": [("cow", 0, 1, 1, 5, 5), ("cow", 0, 30, 20, 34, 24)],
        "000007": [("cow", 0, 1, 1, 99, 5)],
        "000008": [("sheep", 0, 11, 6, 20, 15)],
        "000009": [("sheep", 0, 11, 6, 20, 15)],
    }
    for stem, objects in voc.items():
        write_voc(tmp_path, stem, *objects)
    write_voc(tmp_path, "2007_000001", ("dog", 0, 11, 6, 20, 15), year="VOC2012")
    write_coco(tmp_path, coco_data((1, 18, 9, 9, 9, 9), images=(1, 2)))
    jpeg = tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"
    (jpeg / "000008.jpg").unlink()
    write_image(jpeg / "000009.jpg", 30, 40)
    made = make(tmp_path, fractions=ALL_TRAIN)
    assert counts(made) == {
        "annotated": 12,
        "left out: annotated for other tasks": 0,
        "left out: box outside the image": 1,
        "left out: second copy": 1,
        "left out: no object": 2,
        "left out: large object": 1,
        "left out: elongated object": 1,
        "left out: too many objects": 1,
        "left out: no square": 1,
        "kept": 4,
        "kept: train": 4,
        "kept: val": 0,
        "kept: test": 0,
        "train: image of another size": 1,
        "train: missing image": 1,
        "train: more than asked for": 0,
        "train: used": 2,
    }
    rows = {row["photo"]: row for row in table(made.files["train_problems.csv"])}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "VOC2007/000007": "box outside the image",
        "VOC2007/000001": "second copy",
        "VOC2007/000008": "missing image",
        "VOC2007/000009": "image of another size",
    }
    assert rows["VOC2007/000001"]["file"] == "VOCdevkit/VOC2012/JPEGImages/2007_000001.jpg"
    assert rows["VOC2007/000009"]["detail"] == "30 x 40 px, annotated 40 x 30"
    paper = {row["step"]: row["paper"] for row in table(made.files["train_counts.csv"])}
    assert {step: int(value) for step, value in paper.items() if value} == {
        "kept": 9780,
        "kept: train": 7816,
        "kept: val": 987,
        "kept: test": 977,
    }
    assert not [text for text in made.files.values() if str(tmp_path) in text]


def test_the_next_photograph_takes_the_place_of_a_broken_one(pets, tmp_path):
    numbers = range(1, COUNT + 1)
    write_coco(tmp_path, coco_data(*[(i, 18, i % 20, 8, 10, 9) for i in numbers], images=numbers))
    first, second, third = ids(make(pets))[:3]
    (tmp_path / "train2017" / f"{second.removeprefix('COCO/')}.jpg").write_bytes(b"\xff\xd8")
    made = make(tmp_path, size=2)
    assert ids(made) == [first, third]
    (row,) = [row for row in table(made.files["train_problems.csv"]) if row["photo"]]
    assert (row["photo"], row["reason"]) == (second, "broken image")


def test_a_set_that_is_not_there_is_reported(pets):
    rows = table(make(pets).files["train_problems.csv"])
    assert [(row["file"], row["reason"]) for row in rows] == [
        ("VOC2007", "set not found"),
        ("VOC2012", "set not found"),
    ]


@pytest.mark.parametrize(
    ("names", "paper", "expected"),
    [
        (["VOC2007/1", "VOC2012/1", "COCO/1"], 4, "drawn from a sample of 3 photographs of PASCAL"),
        (["VOC2007/1", "VOC2012/1", "COCO/1"], 3, "drawn from the 3 photographs of PASCAL VOC"),
        (["COCO/1"], 1, "drawn from the 1 photographs of COCO that the filters keep"),
        (["VOC2012/1", "VOC2007/1"], 2, "drawn from the 2 photographs of PASCAL VOC (2007, 2012)"),
        ([f"COCO/{i}" for i in range(15700)], 9780, "drawn from the 15,700 photographs of COCO"),
    ],
)
def test_source_in_words(monkeypatch, names, paper, expected):
    monkeypatch.setattr(pascal_coco_report, "PAPER", {"train": paper})
    words = pascal_coco_report.source([photo(id=name) for name in names], drawn=False)
    assert words.startswith(expected)


def test_source_counts_photographs_that_are_there(pets, tmp_path):
    write_coco(tmp_path, coco_data((1, 18, 9, 9, 9, 9), (2, 18, 9, 9, 9, 9), images=(1, 2)))
    (tmp_path / "train2017" / "000000000002.jpg").unlink()
    made = make(tmp_path, fractions=ALL_TRAIN)
    assert made.source == "drawn from a sample of 1 photographs of COCO that the filters keep"
    everything = "drawn from a sample of 30 photographs of COCO that the filters keep"
    assert make(pets, "val").source == make(pets).source == everything
    assert make(pets, size=5).source == everything  # whatever is used of them


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"download": True}, "give root or download, not both"),
        ({"largest": 0.01}, r"split train: no photograph is left \(30 annotated, 30 left out: lar"),
        (
            {"root": "."},
            "root .: none of VOC2007, VOC2012, COCO is there: looked for VOCdevkit",
        ),
        ({"sources": ["VOC2007"]}, "none of VOC2007 is there: looked for VOCdevkit/VOC2007"),
    ],
)
def test_values_that_exclude_each_other_and_roots_without_photographs(pets, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        make(**{"root": pets, **changes})
    assert "\n" not in str(caught.value)
