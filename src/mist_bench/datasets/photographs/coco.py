"""COCO: the annotated photographs of ``instances_*.json`` with an object of VOC's classes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mist_bench.datasets.photographs.annotations import (
    Instance,
    Photograph,
    Problem,
    Reading,
    UnusableError,
    clip_box,
    image_size,
    inside,
    number,
)

PLACES = (".", "coco")  # where the folder "annotations" may lie
IMAGES = (".", "images")  # where, beside it, the folders of photographs may lie
# COCO's names and ids of the twenty classes, in VOC's order: labels 1..20
CATEGORIES = {
    "airplane": 5,
    "bicycle": 2,
    "bird": 16,
    "boat": 9,
    "bottle": 44,
    "bus": 6,
    "car": 3,
    "cat": 17,
    "chair": 62,
    "cow": 21,
    "dining table": 67,
    "dog": 18,
    "horse": 19,
    "motorcycle": 4,
    "person": 1,
    "potted plant": 64,
    "sheep": 20,
    "couch": 63,
    "train": 7,
    "tv": 72,
}
LABELS = {name: label for label, name in enumerate(CATEGORIES, start=1)}
USED = frozenset(
    {"images", "annotations", "categories", "id", "name", "file_name", "width", "height"}
    | {"image_id", "category_id", "bbox", "iscrowd"}
)


def read_coco(root: Path) -> Reading | None:
    """Return the photographs of COCO; ``None`` if it is not there.

    Args:
        root: folder that holds, itself or in ``coco``, ``annotations/instances_NAME.json`` and
            ``NAME`` with the photographs.
    """
    found = [sorted((root / place / "annotations").glob("instances_*.json")) for place in PLACES]
    files = next(filter(None, found), None)
    if files is None:
        return None
    reading = Reading()
    for path in files:
        file = path.relative_to(root).as_posix()
        try:
            name = path.stem.removeprefix("instances_")
            places = (path.parents[1] / place / name for place in IMAGES)
            images = next((place for place in places if place.is_dir()), None)
            if images is None:
                raise UnusableError("set not found", f"there is no folder {name} of images")
            _read_file(_load(path), file, images.relative_to(root), reading)
        except UnusableError as problem:
            reading.problems.append(problem.of("", file))
    return reading


def _load(path: Path) -> dict[str, list]:
    """Return what is used of a file of annotations; outlines would need gigabytes."""

    def used(record: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in record.items() if key in USED}

    try:
        data = json.loads(path.read_text("utf-8"), object_hook=used)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UnusableError("broken annotations", f"{type(error).__name__}: {reason}") from None
    for key in ("categories", "images", "annotations"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UnusableError("broken annotations", f"a list {key!r} is expected")
    return data


def _read_file(data: Mapping[str, list], file: str, images: Path, reading: Reading) -> None:
    """Add the photographs and problems of one file of annotations to ``reading``."""

    def report(reason: str, detail: str, photo: str = "") -> None:
        reading.problems.append(Problem(photo, file, reason, detail))

    labels = _labels(data["categories"], report)
    objects, broken = defaultdict(list), 0
    for each in data["annotations"]:
        image = _id(each, "image_id")
        if image is None:
            broken += 1
        elif labels.get(_id(each, "category_id"), -1) != 0:  # of the twenty, or unknown
            objects[image].append(each)
    if broken:
        report("broken annotation", f"{broken} objects name no image")
    for place, image in enumerate(data["images"]):
        key = _id(image)
        photo = f"COCO/{key:012d}" if key is not None else f"COCO/images[{place}]"
        try:
            if key is None:
                raise UnusableError("broken annotation", "the image has no id")
            record = _photograph(photo, image, images, objects.pop(key, []), labels)
            reading.photographs.append(record)
        except UnusableError as problem:
            report(problem.reason, problem.detail, photo)
    if objects:
        lost = sum(map(len, objects.values()))
        report("broken annotation", f"{lost} objects are of images that are not listed")


def _id(record: Any, key: str = "id") -> int | None:
    """Return the id that an entry has under ``key``, if it is one."""
    value = record.get(key) if isinstance(record, dict) else None
    return value if type(value) is int else None


def _labels(categories: list, report) -> dict[int, int]:
    """Return the label of each category's id: 1..20, or 0 for what VOC does not have.

    The file's own names decide; ids that are not COCO's are reported.
    """
    labels, missing = {}, set(CATEGORIES)
    for each in categories:
        key = _id(each)
        name = each.get("name") if isinstance(each, dict) else None
        if key is None or not isinstance(name, str):
            report("broken annotation", f"a category is {each!r}")
            continue
        labels[key] = LABELS.get(name, 0)
        missing.discard(name)
        if CATEGORIES.get(name, key) != key:
            report("unexpected category", f"{name!r} has id {key}, in COCO {CATEGORIES[name]}")
    if missing:
        report("unexpected category", f"no category is called {', '.join(sorted(missing))}")
    return labels


def _photograph(
    photo: str,
    image: Mapping[str, Any],
    images: Path,
    objects: list[Mapping[str, Any]],
    labels: Mapping[int, int],
) -> Photograph:
    """Return one photograph, or raise ``UnusableError``."""
    file = images / inside(image.get("file_name"))
    width, height = image_size(image.get("width"), image.get("height"))
    counted = [each for each in objects if number(each.get("iscrowd", 0)) != 1]
    instances = tuple(_instance(each, labels, width, height) for each in counted)
    skipped = len(objects) - len(counted)
    return Photograph(photo, file.as_posix(), width, height, instances, skipped)


def _instance(
    record: Mapping[str, Any], labels: Mapping[int, int], width: int, height: int
) -> Instance:
    """Return the object that ``record`` describes, or raise ``UnusableError``."""
    category = _id(record, "category_id")
    if category not in labels:
        raise UnusableError("unknown class", f"category_id {record.get('category_id')!r}")
    box = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise UnusableError("broken annotation", f"a bbox of four numbers is expected, got {box!r}")
    x, y, w, h = map(number, box)
    return Instance(labels[category], clip_box((x, y, x + w, y + h), width, height))
