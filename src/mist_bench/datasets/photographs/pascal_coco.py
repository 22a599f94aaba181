"""PASCAL+COCO: photographs with one or two objects of VOC's classes, cut to squares (Sec. 5.2).

Without photographs, scenes that stand in for them go the same way: written as a VOC devkit, read,
filtered and cut. N images, L = ``max_instances``, s side of the stored image.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mist_bench.datasets.files import Split
from mist_bench.datasets.photographs import download as photographs
from mist_bench.datasets.photographs import report
from mist_bench.datasets.photographs.annotations import Photograph, Problem, Reading, UnusableError
from mist_bench.datasets.photographs.coco import read_coco
from mist_bench.datasets.photographs.crops import (
    Crop,
    crop_boxes,
    crop_image,
    draw_window,
    open_image,
    reason_to_drop,
)
from mist_bench.datasets.photographs.voc import read_voc
from mist_bench.datasets.standin.scenes import write_devkit

SPLITS = ("train", "val", "test")
SETS = (*(f"VOC{year}" for year in range(2007, 2013)), "COCO")


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    root: str | None,
    download: bool,
    sources: Sequence[str],
    side: int,
    max_instances: int,
    largest: float,
    longest: float,
    coverage: float,
    split_seed: int,
    fractions: Mapping[str, float],
    surplus: float,
    standin: Mapping[str, Any],
) -> Split:
    """Return up to ``size`` squares cut from photographs, or ``size`` from stand-in scenes.

    Args:
        split: ``train``, ``val`` or ``test``; a photograph's is decided by its id alone.
        size: the most images.
        rng: the only source of randomness; a photograph's crop depends on one draw and its id.
        root: folder with VOC's devkit, COCO or both; ``None`` for a download or the stand-in.
        download: fetch VOC, and of COCO what the filters keep, into the cache.
        sources: what to combine, ``VOC2007`` to ``VOC2012`` (the paper: 2007) and ``COCO``; of a
            photograph that is in two of them, the first counts.
        side: s, px.
        max_instances: L, the most objects in an image (the paper's K = 2).
        largest: the most an object may cover of its photograph (the paper: 0.3).
        longest: the most an object's longer side may be, in its shorter sides (the paper: 2).
        coverage: what the objects cover of a crop (the paper: 0.3); more where the photograph is
            too small. A photograph whose objects do not fit into such a square is left out.
        split_seed: another one deals the photographs out to other splits.
        fractions: share of each split (the paper's sizes: .8, .1 and .1).
        surplus: how many more scenes than ``size`` to draw, because the filters take some; a
            fraction of ``size``.
        standin: keywords of ``standin.write_devkit``.

    Returns:
        The split: ``images`` (N, 3, s, s) uint8; ``counts`` (N,) in 1..L; ``labels`` (N, L), places
        in ``VOC_CLASSES``; ``boxes`` (N, L, 4) cxcywh px; and as files the index of the crops, how
        many photographs were left out and why, and what was wrong with the data.

    Raises:
        ValueError: in one line, for values that cannot be used, a root without photographs, a
            download that fails, or too few images at the end.
        OSError: if the disk refuses.
    """
    _check(split, root, download, sources, side, max_instances, fractions)
    _check_filters(largest, longest, coverage, surplus)
    drawn = root is None and not download
    if drawn:
        _check_standin(standin)
    scenes, draw = rng.spawn(1)[0], int(rng.integers(2**63))
    with tempfile.TemporaryDirectory() as scratch:
        if drawn:
            folder, sources = Path(scratch), ("VOC2007",)
            write_devkit(folder, split, math.ceil(size * (1 + surplus)), scenes, **standin)
        else:
            folder = photographs.fetch_annotations(sources) if download else Path(root).expanduser()
        found = read_sets(folder, sources)
        kept, dropped = select(
            found.photographs,
            max_instances=max_instances,
            largest=largest,
            longest=longest,
            coverage=coverage,
        )
        parts = {split: kept} if drawn else deal_out(kept, split_seed, fractions)
        chosen, lost = parts[split], []
        if download:
            chosen, lost = photographs.fetch_images(folder, chosen[:size])
        crops, broken = cut(folder, chosen, size, draw, side=side, coverage=coverage)
        there = kept if download else [p for p in kept if (folder / p.file).is_file()]
    rows = report.count_rows(found, dropped, parts, split, lost + broken, len(crops))
    if len(crops) < (size if drawn else 1):
        raise ValueError(_too_few(split, size, rows, drawn))
    files = {
        f"{split}_index.json": report.index_text(crops),
        f"{split}_counts.csv": report.counts_text(rows, photographs=not drawn),
        f"{split}_problems.csv": report.problems_text(found.problems + lost + broken),
    }
    return Split(_arrays(crops, max_instances), report.source(there, drawn=drawn), files)


def read_sets(folder: Path, sources: Sequence[str]) -> Reading:
    """Return the photographs of all ``sources`` in ``folder``; of copies, the first.

    Raises:
        ValueError: if none of the sources is there.
    """
    if not folder.is_dir():
        raise ValueError(f"root {folder}: no such folder")
    readings = {
        name: read_coco(folder) if name == "COCO" else read_voc(folder, name) for name in sources
    }
    if not any(readings.values()):
        raise ValueError(
            f"root {folder}: none of {', '.join(sources)} is there: looked for VOCdevkit/VOC2007 "
            "(there or in voc/, and so for other years) and annotations/instances_*.json (there or "
            "in coco/)"
        )
    photos, problems = {}, []
    for name, reading in readings.items():
        if reading is None:
            problems.append(Problem("", name, "set not found", "not below the root"))
            continue
        problems += reading.problems
        for photo in reading.photographs:
            if photos.setdefault(photo.id, photo) is not photo:
                problems.append(Problem(photo.id, photo.file, "second copy", photos[photo.id].file))
    unlisted = sum(reading.unlisted for reading in readings.values() if reading)
    return Reading(list(photos.values()), problems, unlisted)


def select(photos: Sequence[Photograph], **rules: Any) -> tuple[list[Photograph], Counter[str]]:
    """Return the photographs that pass the filters, and how many fail for which reason.

    Args:
        photos: photographs.
        rules: keywords of ``reason_to_drop``.
    """
    reasons = [reason_to_drop(photo, **rules) for photo in photos]
    kept = [photo for photo, reason in zip(photos, reasons, strict=True) if reason is None]
    return kept, Counter(reason for reason in reasons if reason is not None)


def deal_out(
    photos: Sequence[Photograph], split_seed: int, fractions: Mapping[str, float]
) -> dict[str, list[Photograph]]:
    """Return the photographs of each split, in an order that a hash decides.

    A photograph's split and rank depend on its id alone: others may come and go.

    Args:
        photos: photographs with different ids.
        split_seed: part of what is hashed.
        fractions: expected share of each split; they sum to 1.
    """
    places = {photo.id: _hash(split_seed, photo.id) % 2**48 / 2**48 for photo in photos}
    ends = np.cumsum([fractions[split] for split in SPLITS])[:-1]
    parts: dict[str, list[Photograph]] = {split: [] for split in SPLITS}
    for photo in sorted(photos, key=lambda photo: places[photo.id]):
        parts[SPLITS[np.searchsorted(ends, places[photo.id], side="right")]].append(photo)
    return parts


def cut(
    folder: Path, photos: Sequence[Photograph], size: int, draw: int, *, side: int, coverage: float
) -> tuple[list[Crop], list[Problem]]:
    """Return the crops of the first ``size`` photographs that can be read, and what cannot.

    Args:
        folder: root of the data.
        photos: photographs that the filters keep.
        size: the most crops.
        draw: with a photograph's id, the seed of its crop.
        side: s, px.
        coverage: what the objects are to cover of a crop, a fraction.
    """
    crops, problems = [], []
    for photo in photos:
        if len(crops) == size:
            break
        try:
            image = open_image(folder / photo.file, photo.width, photo.height)
        except UnusableError as problem:
            problems.append(Problem(photo.id, photo.file, problem.reason, problem.detail))
            continue
        window = draw_window(photo, coverage, np.random.default_rng(_hash(draw, photo.id)))
        boxes = crop_boxes(photo, window, side)
        crops.append(Crop(photo, window, crop_image(image, window, side), boxes))
    return crops, problems


def _hash(seed: int, name: str) -> int:
    """Return a number below 2^256 that two inputs share by no chance that matters."""
    data = f"{seed} {name}".encode(errors="backslashreplace")  # a file's name may be no text
    return int.from_bytes(hashlib.sha256(data).digest())


def _arrays(crops: Sequence[Crop], max_instances: int) -> dict[str, NDArray]:
    """Return the arrays of ``Split``."""
    N, L = len(crops), max_instances
    labels = np.full((N, L), -1, dtype=np.int64)
    boxes = np.zeros((N, L, 4), dtype=np.float32)
    for i, crop in enumerate(crops):
        labels[i, : len(crop.boxes)] = [each.label for each in crop.photo.instances]
        boxes[i, : len(crop.boxes)] = crop.boxes
    counts = np.array([len(crop.boxes) for crop in crops], dtype=np.int64)
    images = np.stack([crop.image for crop in crops])
    return {"images": images, "counts": counts, "labels": labels, "boxes": boxes}


def _too_few(split: str, size: int, rows: Sequence[report.Row], drawn: bool) -> str:
    """Return what to say if a split has too few images."""
    told = ", ".join(f"{images} {what}" for what, images, _ in rows if images)
    if drawn:
        return f"split {split}: fewer than {size} stand-in scenes ({told}): raise surplus"
    return f"split {split}: no photograph is left ({told})"


def _check(split, root, download, sources, side, max_instances, fractions) -> None:
    """Raise a ``ValueError`` for a value that ``make_split`` cannot use."""
    if split not in SPLITS:
        raise ValueError(f"split must be train, val or test, got {split!r}")
    if root is not None and download:
        raise ValueError("give root or download, not both: a download goes into the cache")
    unknown = [name for name in sources if name not in SETS]
    if unknown or not sources or len(set(sources)) < len(sources):
        raise ValueError(f"sources must be different ones of {', '.join(SETS)}, got {sources}")
    if side < 1 or max_instances < 1:
        raise ValueError(f"side and max_instances must be >= 1, got {side} and {max_instances}")
    shares = fractions.values()
    if set(fractions) != set(SPLITS) or min(shares) < 0 or not math.isclose(sum(shares), 1):
        raise ValueError(f"fractions of train, val and test must sum to 1, got {dict(fractions)}")


def _check_filters(largest, longest, coverage, surplus) -> None:
    """Raise a ``ValueError`` for a filter that would keep nothing or make no sense."""
    if not (0 < largest <= 1 and 0 < coverage <= 1):
        raise ValueError(f"largest and coverage must be in 0..1, got {largest:g} and {coverage:g}")
    if longest < 1 or surplus < 0:
        raise ValueError(f"longest must be >= 1, surplus >= 0, got {longest:g} and {surplus:g}")


def _check_standin(standin: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` for keywords that the stand-in lacks or does not know."""
    try:
        inspect.signature(write_devkit).bind(Path(), "train", 0, None, **standin)
    except TypeError as error:
        raise ValueError(f"standin: {error} of standin.write_devkit") from None
