"""What tells how PASCAL+COCO was made: where from, which crops, what was left out and why."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from mist_bench.datasets.photographs.annotations import Photograph, Problem, Reading
from mist_bench.datasets.photographs.crops import REASONS, Crop
from mist_bench.datasets.photographs.voc import VOC_CLASSES
from mist_bench.datasets.standin.emoji import ATTRIBUTION

PAPER = {"train": 7816, "val": 987, "test": 977}  # photographs (Sec. 5.2)
Row = tuple[str, int, int | None]  # what, how many photographs, how many in the paper


def source(photos: Sequence[Photograph], *, drawn: bool) -> str:
    """Return in words, without any path, where the pictures come from.

    ``photos`` are all that the filters keep, of all splits, or scenes that were ``drawn`` instead.
    """
    if drawn:
        return f"stand-in scenes drawn from {ATTRIBUTION}"
    names = {photo.id.partition("/")[0] for photo in photos}
    years = sorted(name.removeprefix("VOC") for name in names - {"COCO"})
    sets = [f"PASCAL VOC ({', '.join(years)})"] * bool(years) + ["COCO"] * ("COCO" in names)
    words = f"{len(photos):,} photographs of {' and '.join(sets)} that the filters keep"
    few = len(photos) < sum(PAPER.values())
    return f"drawn from {'a sample of' if few else 'the'} {words}"


def count_rows(
    found: Reading,
    dropped: Mapping[str, int],
    parts: Mapping[str, Sequence[Photograph]],
    split: str,
    unread: Sequence[Problem],
    used: int,
) -> list[Row]:
    """Return how many photographs there are and were left out, in the order of the steps.

    Annotated ones are those left out at each step and those kept; likewise for the split.

    Args:
        found: what the annotations say.
        dropped: how many the filters left out, by reason.
        parts: what the filters keep, by split.
        split: the split that was made.
        unread: its photographs that could not be fetched or read.
        used: how many crops it has.
    """
    problems = Counter(problem.reason for problem in found.problems if problem.photo)
    left_out = {"annotated for other tasks": found.unlisted, **dict(sorted(problems.items()))}
    left_out |= {reason: dropped.get(reason, 0) for reason in REASONS}
    kept = sum(map(len, parts.values()))
    failed = Counter(problem.reason for problem in unread)
    beyond = len(parts[split]) - used - len(unread)
    return [
        ("annotated", sum(left_out.values()) + kept, None),
        *((f"left out: {reason}", count, None) for reason, count in left_out.items()),
        ("kept", kept, sum(PAPER.values())),
        *((f"kept: {name}", len(part), PAPER[name]) for name, part in parts.items()),
        *((f"{split}: {reason}", count, None) for reason, count in sorted(failed.items())),
        (f"{split}: more than asked for", beyond, None),
        (f"{split}: used", used, None),
    ]


def counts_text(rows: Sequence[Row], *, photographs: bool) -> str:
    """Return ``rows`` as CSV; the paper's numbers only beside those of photographs."""
    return _csv(
        ("step", "images", "paper"),
        [(what, images, paper if photographs else None) for what, images, paper in rows],
    )


def problems_text(problems: Sequence[Problem]) -> str:
    """Return ``problems`` as CSV."""
    header = [field.name for field in fields(Problem)]
    return _csv(header, list(map(astuple, problems)))


def index_text(crops: Sequence[Crop]) -> str:
    """Return as JSON, a line per image, which square of which photograph it shows.

    ``crop`` is left, top and side in px of the photograph, whose first pixel covers [0, 1];
    ``boxes`` are cxcywh px of the stored image, as in its array.
    """
    entries = [
        {
            "id": crop.photo.id,
            "file": crop.photo.file,
            "crop": list(crop.window),
            "labels": [VOC_CLASSES[each.label] for each in crop.photo.instances],
            "boxes": [[round(value, 4) for value in box] for box in crop.boxes.tolist()],
        }
        for crop in crops
    ]
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    # a file's name may be no text
    return text.getvalue().encode(errors="backslashreplace").decode()
