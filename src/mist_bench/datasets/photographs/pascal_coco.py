"""PASCAL+COCO: photographs with one or two objects of VOC's classes, cut to squares (Sec. 5.2).

Without photographs, scenes that stand in for them go the same way: written as a VOC devkit, read,
filtered and cut. N images, L = ``max_instances``, s side of the stored image.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from pydantic import AfterValidator, Field, model_validator

from mist_bench.config.schema import SPLITS
from mist_bench.datasets.files import Split, padded
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
from mist_bench.datasets.standin.specs import StandinSpec
from mist_bench.spec import Count, Folder, Fraction, Natural, NonNegative, Share, Spec, different

Source = Literal["VOC2007", "VOC2008", "VOC2009", "VOC2010", "VOC2011", "VOC2012", "COCO"]
Sources = Annotated[tuple[Source, ...], Field(min_length=1), AfterValidator(different)]


class Fractions(Spec):
    """Share of each split."""

    train: Fraction = Field(0.8, description="7816 of 9780 in the paper")
    val: Fraction = Field(0.1, description="987 of 9780 in the paper")
    test: Fraction = Field(0.1, description="977 of 9780 in the paper")

    @model_validator(mode="after")
    def _check_sum(self) -> Fractions:
        total = self.train + self.val + self.test
        if not math.isclose(total, 1):
            raise ValueError(f"train, val and test must sum to 1, not {total:g}")
        return self


def make_split(
    split: str,
    size: int,
    rng: Generator,
    *,
    root: Folder | None = None,
    download: bool = False,
    sources: Sources = ("VOC2007", "VOC2012", "COCO"),
    side: Count = 224,
    max_instances: Count = 2,
    largest: Share = 0.3,
    longest: Annotated[float, Field(ge=1)] = 2,
    coverage: Share = 0.3,
    split_seed: Natural = 0,
    fractions: Fractions = Fractions(),
    surplus: NonNegative = 0.05,
    standin: StandinSpec = StandinSpec(),
) -> Split:
    """Return up to ``size`` squares cut from photographs, or ``size`` from stand-in scenes.

    Args:
        split: ``train``, ``val`` or ``test``; a photograph's is decided by its id alone.
        size: the most images.
        rng: the only source of randomness; a photograph's crop depends on one draw and its id.
        root: folder with VOC's devkit, COCO or both; null for a download or the stand-in.
        download: fetch VOC, and of COCO what the filters keep, into the cache.
        sources: what to combine (the paper: 2007 and COCO); of a photograph that is in two of
            them, the first counts.
        side: s, px.
        max_instances: L, the most objects in an image (the paper's K = 2).
        largest: the most an object may cover of its photograph (the paper: 0.3).
        longest: the most an object's longer side may be, in its shorter sides (the paper: 2).
        coverage: what the objects cover of a crop (the paper: 0.3); more where the photograph is
            too small. A photograph whose objects do not fit into such a square is left out.
        split_seed: another one deals the photographs out to other splits.
        fractions: share of each split; they sum to 1.
        surplus: how many more scenes than ``size`` to draw, because the filters take some; a
            fraction of ``size``.
        standin: what scenes look like.

    Returns:
        The split: ``images`` (N, 3, s, s) uint8; ``counts`` (N,) in 1..L; ``labels`` (N, L), places
        in ``VOC_CLASSES``; ``boxes`` (N, L, 4) cxcywh px; and as files the index of the crops, how
        many photographs were left out and why, and what was wrong with the data.

    Raises:
        ValueError: in one line, for both a root and a download, a root without photographs, a
            download that fails, or too few images at the end.
        OSError: if the disk refuses.
    """
    if root is not None and download:
        raise ValueError("give root or download, not both: a download goes into the cache")
    drawn = root is None and not download
    scenes, draw = rng.spawn(1)[0], int(rng.integers(2**63))
    with tempfile.TemporaryDirectory() as scratch:
        if drawn:
            folder, sources = Path(scratch), ("VOC2007",)
            write_devkit(folder, split, math.ceil(size * (1 + surplus)), scenes, standin)
        else:
            folder = photographs.fetch_annotations(sources) if download else Path(root)
        found = read_sets(folder, sources)
        rules = {"largest": largest, "longest": longest, "coverage": coverage}
        reasons = {
            photo.id: reason_to_drop(photo, max_instances=max_instances, **rules)
            for photo in found.photographs
        }
        kept = [photo for photo in found.photographs if reasons[photo.id] is None]
        parts = {split: kept} if drawn else deal_out(kept, split_seed, fractions)
        chosen, lost = parts[split], []
        if download:
            lost = photographs.fetch_images(folder, chosen[:size])
            failed = {problem.photo for problem in lost}
            chosen = [photo for photo in chosen[:size] if photo.id not in failed]
        crops, broken = cut(folder, chosen, size, draw, side=side, coverage=coverage)
        there = kept if download else [p for p in kept if (folder / p.file).is_file()]
    dropped = Counter(reasons.values())
    rows = report.count_rows(found, dropped, parts, split, lost + broken, len(crops))
    if len(crops) < (size if drawn else 1):
        told = ", ".join(f"{images} {what}" for what, images, _ in rows if images)
        few = f"fewer than {size} stand-in scenes" if drawn else "no photograph is left"
        raise ValueError(f"split {split}: {few} ({told}){': raise surplus' * drawn}")
    files = {
        f"{split}_index.json": report.index_text(crops),
        f"{split}_counts.csv": report.counts_text(rows, photographs=not drawn),
        f"{split}_problems.csv": report.problems_text(found.problems + lost + broken),
    }
    arrays = padded(
        [[each.label for each in crop.photo.instances] for crop in crops],
        [crop.boxes for crop in crops],
        max_instances,
    )
    arrays["images"] = np.stack([crop.image for crop in crops])
    return Split(arrays, report.source(there, drawn=drawn), files)


def read_sets(folder: Path, sources: Sequence[str]) -> Reading:
    """Return the photographs of all ``sources`` in ``folder``; of copies, the first.

    Raises:
        ValueError: if none of the sources is there.
    """
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


def deal_out(
    photos: Sequence[Photograph], split_seed: int, fractions: Fractions
) -> dict[str, list[Photograph]]:
    """Return the photographs of each split, in an order that a hash decides.

    A photograph's split and rank depend on its id and the seed alone: others may come and go.
    """
    places = {photo.id: _hash(split_seed, photo.id) % 2**48 / 2**48 for photo in photos}
    ends = np.cumsum([getattr(fractions, split) for split in SPLITS])[:-1]
    parts: dict[str, list[Photograph]] = {split: [] for split in SPLITS}
    for photo in sorted(photos, key=lambda photo: places[photo.id]):
        parts[SPLITS[np.searchsorted(ends, places[photo.id], side="right")]].append(photo)
    return parts


def cut(
    folder: Path, photos: Sequence[Photograph], size: int, draw: int, *, side: int, coverage: float
) -> tuple[list[Crop], list[Problem]]:
    """Return the crops of the first ``size`` photographs that can be read, and what cannot.

    ``draw`` and a photograph's id are the seed of its crop.
    """
    crops, problems = [], []
    for photo in photos:
        if len(crops) == size:
            break
        try:
            image = open_image(folder / photo.file, (photo.width, photo.height))
        except UnusableError as problem:
            problems.append(problem.of(photo.id, photo.file))
            continue
        window = draw_window(photo, coverage, np.random.default_rng(_hash(draw, photo.id)))
        boxes = crop_boxes(photo, window, side)
        crops.append(Crop(photo, window, crop_image(image, window, side), boxes))
    return crops, problems


def _hash(seed: int, name: str) -> int:
    """Return a number below 2^256 that two inputs share by no chance that matters."""
    data = f"{seed} {name}".encode(errors="backslashreplace")  # a file's name may be no text
    return int.from_bytes(hashlib.sha256(data).digest())
