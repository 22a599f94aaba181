"""PASCAL+COCO from real photographs; the numbers were worked out from the annotations by hand."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from devkits import PARAMS
from PIL import Image

from mist_bench.boxes import cxcywh_to_xyxy
from mist_bench.datasets.photographs.pascal_coco import make_split
from mist_bench.datasets.photographs.voc import VOC_CLASSES

SAMPLES = Path(__file__).parents[2] / "shared" / "data"
SPLITS = ("train", "val", "test")
SIDE = 96

# id: (objects as (class, x0, y0, x1, y1), side of the crop), px of the photograph. VOC's corners
# are less 1; a side is the root of the objects' areas / .3, or the photograph's shorter side.
KEPT = {
    "VOC2007/000027": ([("person", 173, 100, 349, 351)], 383.7360),  # 176 * 251 / .3
    "VOC2007/000332": ([("horse", 53, 49, 285, 262)], 333),  # 405.9 would leave 500 x 333
    # beside a bicycle and a person that are difficult; (88 * 47 + 40 * 34) / .3
    "VOC2007/000515": ([("car", 63, 163, 151, 210), ("car", 146, 166, 186, 200)], 135.3514),
    "VOC2007/000529": ([("boat", 289, 142, 500, 250)], 275.6084),  # beside a difficult car
    "VOC2007/000720": ([("dog", 216, 117, 305, 263)], 208.1186),  # 89 * 146 / .3
    "VOC2007/000837": ([("boat", 260, 64, 365, 159)], 182.3458),  # 105 * 95 / .3
    "VOC2007/001154": (  # (174 * 143 + 38 * 45) / .3
        [("sofa", 0, 232, 174, 375), ("pottedplant", 133, 229, 171, 274)],
        297.7247,
    ),
    "VOC2007/001377": ([("aeroplane", 272, 162, 318, 250)], 116.1608),  # 46 * 88 / .3
    "VOC2007/001487": ([("boat", 241, 116, 277, 151)], 64.8074),  # 36 * 35 / .3
    "COCO/000000000042": ([("dog", 214.15, 41.29, 562.41, 285.07)], 478),  # of 640 x 478
    "COCO/000000000064": ([("car", 52.36, 387.77, 228.72, 545.39)], 304.4003),  # 176.36 * 157.62
    "COCO/000000000094": ([("car", 356.23, 275.22, 399.10, 313.68)], 74.1346),  # 42.87 * 38.46
    "COCO/000000000138": ([("pottedplant", 560.65, 45.27, 604.65, 104.06)], 92.8576),
    "COCO/000000000309": ([("dog", 420.15, 71.45, 512.98, 195.10)], 195.6053),
    "COCO/000000000322": ([("person", 71.66, 110.48, 277.96, 386.27)], 435.4901),
    "COCO/000000000382": ([("person", 507.71, 363.06, 561.18, 444.34)], 120.3611),
    "COCO/000000000384": ([("sofa", 0, 419.70, 182.5, 637.97)], 364.3912),  # COCO's couch
    "COCO/000000000431": ([("person", 153.75, 67.12, 311.04, 319.59)], 363.8269),
    "COCO/000000000490": ([("dog", 46, 193, 136, 336)], 207.1232),  # 90 * 143 / .3
    "COCO/000000000510": ([("person", 254.05, 130.27, 405.41, 428.65)], 387.9983),
    "COCO/000000000560": ([("pottedplant", 54.40, 126.18, 109.72, 188.52)], 107.2171),
    "COCO/000000000569": ([("person", 88.10, 269.14, 168.28, 414.52)], 197.1173),
    "COCO/000000000581": ([("dog", 104.25, 151.32, 261.13, 410.43)], 368.0995),
    "COCO/000000000589": ([("person", 347.91, 184.57, 493.34, 368.86)], 298.8940),
    "COCO/000000000595": ([("tvmonitor", 368.07, 296.99, 509.06, 408.91)], 229.3440),  # COCO's tv
    "COCO/000000000629": ([("motorbike", 320.97, 257.12, 567.73, 414.23)], 359.4833),
}
CLAMPED = ("VOC2007/000332", "COCO/000000000042")
# VOC and COCO: counted in the annotations
LEFT_OUT = {
    "annotated for other tasks": 0,
    "no object": 0 + 31,
    "large object": 26 + 40,
    "elongated object": 11 + 35,
    "too many objects": 3 + 3,
    "no square": 1 + 2,  # 000904; 201 and 360
}
# sha256 of "0 COCO/000000000309" ends in ...: .887 of 1
VAL = ["COCO/000000000309", "COCO/000000000595"]
TEST = ["COCO/000000000490", "VOC2007/000332", "COCO/000000000569", "VOC2007/000720"]


@pytest.fixture(scope="module")
def made():
    """The three splits of the samples, in the paper's way."""
    if not SAMPLES.is_dir():
        place = "/".join(SAMPLES.parts[-2:])
        pytest.skip(f"no samples of photographs: {place} is not beside the repository")
    params = PARAMS | {"root": str(SAMPLES), "side": SIDE, "coverage": 0.3}
    seeds = np.random.SeedSequence(0).spawn(3)
    return {
        split: make_split(split, 1000, np.random.default_rng(seed), **params)
        for split, seed in zip(SPLITS, seeds, strict=True)
    }


def entries(made):
    for split in SPLITS:
        index = json.loads(made[split].files[f"{split}_index.json"])
        for i, entry in enumerate(index):
            yield entry, {name: array[i] for name, array in made[split].arrays.items()}


def test_exactly_these_photographs_are_kept(made):
    assert {entry["id"] for entry, _ in entries(made)} == set(KEPT)
    parts = {
        split: [each["id"] for each in json.loads(made[split].files[f"{split}_index.json"])]
        for split in SPLITS
    }
    assert parts["val"] == VAL
    assert parts["test"] == TEST
    assert len(parts["train"]) == len(KEPT) - len(VAL) - len(TEST) == 20


@pytest.mark.parametrize("name", KEPT)
def test_labels_boxes_and_crops(made, name):
    objects, extent = KEPT[name]
    ((entry, arrays),) = [pair for pair in entries(made) if pair[0]["id"] == name]
    assert entry["labels"] == [each[0] for each in objects]
    assert arrays["counts"] == len(objects)
    labels = [VOC_CLASSES.index(each[0]) for each in objects] + [-1]
    assert arrays["labels"].tolist() == labels[:2]
    left, top, side = entry["crop"]
    assert side == pytest.approx(extent, abs=1e-4)
    boxes = cxcywh_to_xyxy(arrays["boxes"][: len(objects)])
    photograph = (boxes + 0.5) * extent / SIDE + [left, top, left, top]
    assert photograph == pytest.approx(np.array([each[1:] for each in objects]), abs=0.01)


def test_why_the_others_are_left_out(made):
    for split in SPLITS:
        rows = csv.DictReader(io.StringIO(made[split].files[f"{split}_counts.csv"]))
        counts = {row["step"]: int(row["images"]) for row in rows}
        assert counts["annotated"] == 50 + 128
        assert counts["kept"] == len(KEPT)
        left_out = {step: n for step, n in counts.items() if step.startswith("left out: ")}
        assert left_out == {f"left out: {reason}": n for reason, n in LEFT_OUT.items()}
        problems = made[split].files[f"{split}_problems.csv"].splitlines()
        assert problems[1:] == [",VOC2007,set not found,not below the root"]


def test_objects_cover_what_they_should_of_each_crop(made):
    for entry, arrays in entries(made):
        boxes = arrays["boxes"][: arrays["counts"]]
        covered = boxes[:, 2:].prod(1).sum() / SIDE**2
        if entry["id"] in CLAMPED:
            assert 0.3 < covered < 0.5
        else:
            assert covered == pytest.approx(0.3, rel=1e-4)
        corners = cxcywh_to_xyxy(boxes)
        assert corners.min() >= -0.5 - 1e-4
        assert corners.max() <= SIDE - 0.5 + 1e-4


def test_pixels_are_those_of_the_photograph(made):
    """A crop's mean color is that of the photograph's pixels there, to the pixel at its edge."""
    for entry, arrays in entries(made):
        left, top, side = entry["crop"]
        with Image.open(SAMPLES / entry["file"]) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=float)
        rows = slice(round(top), math.ceil(top + side))
        columns = slice(round(left), math.ceil(left + side))
        expected = pixels[rows, columns].mean((0, 1))
        assert arrays["images"].mean((1, 2)) == pytest.approx(expected, abs=4)


def test_the_source_forbids_a_comparison(made):
    assert {each.source for each in made.values()} == {
        "drawn from a sample of 26 photographs of PASCAL VOC (2007) and COCO that the filters keep"
    }
